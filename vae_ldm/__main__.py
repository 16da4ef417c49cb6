"""`python -m vae_ldm` is `vae-ldm`."""

from vae_ldm.cli import main

if __name__ == "__main__":
    main()
