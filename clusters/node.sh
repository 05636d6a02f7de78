# What a shell on a node needs; the cluster files' commands and the nodes' ~/.bashrc read it.
export RAY_AUTH_MODE=token # the token itself is in ~/.ray/auth_token
export RAY_ROTATION_MAX_BYTES=67108864 RAY_ROTATION_BACKUP_COUNT=3 # of each of Ray's logs
export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 # as the service has it for a Ray of its own
[ ! -f ~/.tune-srgan.storage ] || . ~/.tune-srgan.storage
[ ! -f ~/.tune-srgan.env ] || . ~/.tune-srgan.env # keys of your own: export WANDB_API_KEY=...
[ ! -f ~/.tune-srgan/bin/activate ] || . ~/.tune-srgan/bin/activate
cd ~/tune-srgan
