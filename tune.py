"""The command: `python tune.py` runs the quickstart study; `python tune.py --help` lists the rest."""

from tune_srgan.commands import main

if __name__ == "__main__":
    main()
