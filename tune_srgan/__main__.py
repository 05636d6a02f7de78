"""`python -m tune_srgan`: the same as `python tune.py`, wherever the package is installed."""

from tune_srgan.commands import main

if __name__ == "__main__":
    main()
