"""Train your own autoencoder and latent diffusion model on your own photos."""
