"""`python -m wingspan` is `wingspan`: what torchrun starts."""

from wingspan.cli.main import main

if __name__ == "__main__":
    main()
