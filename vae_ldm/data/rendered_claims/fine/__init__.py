"""The same claims drawn finely: thin cracks, fine scratches, shallow dents, print that looks like print."""
