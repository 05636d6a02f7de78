"""`python -m tune_srgan.tracking TRIAL …`: send the records of trials that were not sent."""

from tune_srgan.tracking.follower import main

if __name__ == "__main__":
    main()
