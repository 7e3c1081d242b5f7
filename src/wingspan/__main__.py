"""`python -m wingspan` is `wingspan`: what torchrun starts."""

from wingspan.cli import main

if __name__ == "__main__":
    main()
