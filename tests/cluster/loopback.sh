#!/usr/bin/env bash
# docs/cluster.md, followed word by word with clusters/local.yaml, on one machine: by hand, as root,
#   tests/cluster/loopback.sh [ENVIRONMENT]
# Laptop, head and worker are namespaces (processes, network, mounts, host name) with a /home, a /tmp and an sshd each;
# head and worker share /mnt, the laptop does not see it. All of it ends with the script; nothing else is touched.
# ENVIRONMENT (default: $TMPDIR/tune-srgan-loopback) is a virtual environment that is made or brought to the lock's versions
# first, but torch's without CUDA; that needs a package index and a python3.11. Each machine has a copy on write of it.
# TOOLS: a folder with ssh, sshd, ssh-keygen and rsync, where they are not on the PATH.
set -euo pipefail
LAB=/run/lab                                     # in the script's own mount namespace
HEAD=10.99.0.2 WORKER=10.99.0.3 LAPTOP=10.99.0.1 # in its own network
EDITED=clusters/local.yaml                       # in the laptop's checkout
DASHBOARD=http://127.0.0.1:8265

die() { echo "loopback.sh: $*" >&2 && exit 1; }

prepare() {
  local name
  [ "$(id -u)" = 0 ] || die "needs root: it makes namespaces"
  export PATH=${TOOLS:+$TOOLS:}$PATH:/usr/sbin:/sbin
  for name in ssh sshd ssh-keygen rsync unshare ip ss curl; do
    command -v $name > /dev/null || die "no $name; apt-get install openssh-server rsync util-linux iproute2 curl"
  done
  checkout=$(dirname "$(dirname "$(dirname "$(realpath "$0")")")")
  environment=$(realpath -m "${1:-${TMPDIR:-/tmp}/tune-srgan-loopback}")
  echo "The environment: $environment"
  without_cuda "$checkout" > "$environment.lock"
  "$checkout/clusters/setup_node.sh" python3.11 "$environment" "$environment.lock"
  "$environment/bin/pip" install -q --disable-pip-version-check torch==2.13.0
  # what this shell has set is no business of the machines
  exec env -i PATH="$PATH" TERM=dumb LANG=C.UTF-8 TOOLS="${TOOLS-}" checkout="$checkout" environment="$environment" \
    unshare --pid --fork --kill-child --net --uts --ipc --mount --mount-proc bash "$0" --laptop
}

without_cuda() { # the lock but torch with CUDA, which is gigabytes
  awk '/^[^ ]/ { wanted = !/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==/ } wanted' "$1/clusters/requirements.lock"
}

# --- The machines

lay_out() { # all that they have in common
  mount -t tmpfs tmpfs /run
  mkdir -p $LAB/{kept,shared} /run/sshd
  chmod 755 /run/sshd
  cp "$0" $LAB/loopback.sh
  hidden=() # what /home and /tmp have of what is needed
  for path in "$checkout" "$("$environment/bin/python" -c 'import sys; print(sys.base_prefix)')" ${TOOLS:+"$TOOLS"}; do
    case $path in /home/* | /tmp/*) keep "$path" && hidden+=("$path") ;; esac
  done
  keep "$environment"
  without_cuda "$checkout" > $LAB/shared/cpu.lock
  ssh-keygen -q -t ed25519 -N '' -f $LAB/host_key
  ip link set lo up
  ip link add net type bridge
  ip link set net up
  ip addr add $LAPTOP/24 dev net
  export hidden_paths="${hidden[*]-}"
}

keep() { mkdir -p "$LAB/kept$1" && mount --bind "$1" "$LAB/kept$1"; }

furnish() { # NAME: this namespace is that machine from now on
  local home=/home/node path
  [ "$1" != laptop ] || home=/home/laptop
  hostname "$1"
  mkdir -p $LAB/"$1"/{home,tmp,new,work} $LAB/"$1$home"
  grep -v '^root:\|^sshd:' /etc/passwd > $LAB/"$1"/passwd
  printf '%s\n' "root:x:0:0:root:$home:/bin/bash" "sshd:x:105:65534::/run/sshd:/usr/sbin/nologin" >> $LAB/"$1"/passwd
  printf '%s\n' "127.0.0.1 localhost" "$LAPTOP laptop" "$HEAD head" "$WORKER worker" > $LAB/"$1"/hosts
  mount --bind $LAB/"$1"/passwd /etc/passwd
  mount --bind $LAB/"$1"/hosts /etc/hosts
  mount --bind $LAB/"$1"/home /home
  mount --bind $LAB/"$1"/tmp /tmp
  mount -t tmpfs tmpfs /dev/shm
  chmod 1777 /tmp /dev/shm
  for path in $hidden_paths; do mkdir -p "$path" && mount --bind "$LAB/kept$path" "$path"; done
  mkdir -p "$environment"
  mount -t overlay overlay -o "lowerdir=$LAB/kept$environment,upperdir=$LAB/$1/new,workdir=$LAB/$1/work" "$environment"
  export HOME=$home
  cp -rT /etc/skel $home # as a new user has it
  mkdir -m 700 $home/.ssh
}

machine() { # NAME: until it is told to end
  furnish "$1"
  mount --bind $LAB/shared /mnt
  cp $LAB/laptop/home/laptop/.ssh/id_ed25519.pub $HOME/.ssh/authorized_keys
  ln -s "$environment" $HOME/.tune-srgan # as setup_node.sh would make it
  [ -z "$TOOLS" ] || sed -i "1i export PATH=$TOOLS:\$PATH" $HOME/.bashrc
  "$(command -v sshd)" -D -f /dev/null -h $LAB/host_key -E $LAB/"$1"/sshd.log -o PidFile=none -o UsePAM=no \
    -o SetEnv="PATH=${TOOLS:+$TOOLS:}/usr/bin:/bin" &
  wait
}

plug_in() { # NAME ADDRESS: start a machine
  ip netns add "$1"
  ip link add "$1" master net type veth peer name eth0 netns "$1"
  ip link set "$1" up
  ip -n "$1" link set lo up
  ip -n "$1" link set eth0 up
  ip -n "$1" addr add "$2/24" dev eth0
  ip -n "$1" route add default via $LAPTOP
  ip netns exec "$1" unshare --pid --fork --kill-child --uts --ipc --mount --mount-proc \
    bash $LAB/loopback.sh --machine "$1" > $LAB/"$1".log 2>&1 &
  wait_for 30 "sshd of $1" ssh_answers "$2"
}

ssh_answers() { timeout 2 bash -c "read -r line < /dev/tcp/$1/22 && [[ \$line = SSH-* ]]" 2> /dev/null; }

inside() { # MACHINE COMMAND...: which of its processes it is
  local machine=$1 pids
  shift
  pids=$(ip netns pids "$machine" | paste -sd,)
  ps -o "$@" -p "$pids"
}

# --- What is said and looked at

said=$LAB/said
step() { printf '\n%s %4d s  %s\n' "$(date -u +%FT%TZ)" $SECONDS "$*"; }
fail() { echo "FAILED: $*" && tail -n 40 $said && exit 1; }

gives() { # CODE COMMAND...: run it; its exit code is that
  local expected=$1 code=0
  shift
  echo "  \$ $*"
  timeout --foreground 900 "$@" < /dev/null > $said.raw 2>&1 || code=$?
  readable < $said.raw > $said
  [ $code = "$expected" ] || fail "exit code $code instead of $expected"
}

readable() { sed -e 's/\x1b\[[0-9;]*m//g' -e 's/\r$//'; }

says() { # PATTERN: what was said has a line like this; it is shown
  local line
  line=$(grep -Em 1 -- "$1" $said) || fail "nothing said like: $1"
  printf '    %s\n' "$(cut -c 1-160 <<< "$line")"
}

says_not() { ! grep -Eq -- "$1" $said || fail "said: $1"; }

one_error() { # an error without a traceback
  says_not Traceback
  [ "$(grep -c '; expected ' $said)" = 1 ] || fail "not one error"
}

wait_for() { # SECONDS WHAT COMMAND...
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || fail "waited too long for: $what"
    sleep 1
  done
}

laptop() {
  trap 'exit 130' INT TERM
  lay_out
  furnish laptop
  export PATH="$environment/bin:$PATH"
  ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
  step "Three machines: laptop, head and worker"
  plug_in head $HEAD
  plug_in worker $WORKER
  rsync -a --exclude .git --filter ':- .gitignore' "$checkout/" ~/tune-srgan
  cd ~/tune-srgan
  follow_the_page
}

# --- docs/cluster.md, line by line

as_told() { # CODE LINE [MORE...]: a line that the page gives, for these machines, with what only they need
  local code=$1 line=$2
  shift 2
  grep -qF -- "$line" docs/cluster.md || fail "docs/cluster.md does not say: $line"
  gives "$code" bash -c "$(sed -e "s#ray_cluster\.yaml#$EDITED#" -e "s#search_spaces/srgan\.yaml#tests/cluster/tiny.yaml#" \
    -e "s#s3://my-bucket/studies#/mnt/studies#" <<< "$line") $*"
}

edit() { # PATTERN REPLACEMENT: one of the file's marked places
  grep -qE -- "$1" $EDITED || fail "$EDITED has no line like: $1"
  sed -Ei "s#$1#$2#" $EDITED
}

follow_the_page() {
  local pid told=(--address $DASHBOARD --storage /mnt/studies)
  step "The five places of $EDITED"
  edit 'head_ip: \S+' "head_ip: $HEAD"
  edit 'worker_ips: .*' "worker_ips: [$WORKER]"
  edit '(max_workers|min_workers): 2' '\1: 1'
  edit 'ssh_user: \S+' 'ssh_user: root'
  edit 'setup_node.sh python3.11' 'setup_node.sh python3.11 ~/.tune-srgan /mnt/cpu.lock'
  edit "until nvidia-smi .*" "true'" # these machines have no GPU

  step "Install, and make the token"
  as_told 0 'pip install -e ".[cluster,s3,gcs]"' --no-index --no-build-isolation
  as_told 0 'ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token'
  [ "$(stat -c %a ~/.ray/auth_token)" = 600 ] || fail "others may read the token"

  step "Start the cluster"
  as_told 0 'ray up ray_cluster.yaml' -y
  wait_for 120 "the worker" worker_is_there
  listens head '127\.0\.0\.1:8265'
  ! ss_of head | grep -E ':8265' | grep -vq '127\.0\.0\.1:8265' || fail "the dashboard listens on other addresses"
  for machine in head worker; do
    ! inside $machine args= | grep -qF "$(cat ~/.ray/auth_token)" || fail "the token is in the process list of $machine"
  done

  step "python tune.py on the head joins the cluster, and goes on after an interruption"
  gives 1 ray exec $EDITED "timeout -s INT 60 python tune.py"
  says 'No study named: running search_spaces/quickstart.yaml'
  says "joined the Ray cluster at $HEAD:6379"
  says 'Node worker: .* held-out pairs'
  says 'python tune.py resume /mnt/studies/quickstart'
  says_not Traceback
  gives 0 ray exec $EDITED 'python tune.py status quickstart'
  says '[0-9]+ of 20 trials ended'

  step "A study by ray exec"
  as_told 0 "ray exec ray_cluster.yaml 'python tune.py run search_spaces/srgan.yaml'"
  says "Study 'tiny' in /mnt/studies/tiny; joined the Ray cluster at $HEAD:6379"
  says '^2 trials: '
  gives 0 ray exec $EDITED 'python tune.py clean tiny && rm -r /mnt/studies/tiny'

  step "Submitted as a job, from the laptop"
  ray dashboard $EDITED > $LAB/dashboard.log 2>&1 < /dev/null &
  pid=$!
  wait_for 60 "the dashboard's port" curl -so /dev/null $DASHBOARD
  gives 2 env RAY_AUTH_MODE=disabled python tune.py submit tests/cluster/tiny.yaml "${told[@]}"
  one_error
  says 'export RAY_AUTH_MODE=token'
  grep -qF 'export RAY_AUTH_MODE=token' docs/cluster.md || fail "docs/cluster.md does not say how the token is sent"
  export RAY_AUTH_MODE=token
  as_told 0 'python tune.py submit search_spaces/srgan.yaml --address http://127.0.0.1:8265 --storage s3://my-bucket/studies'
  says 'Job run.tiny-'
  says '^2 trials: '
  [ ! -e /mnt/studies ] || fail "the laptop sees the studies' folder"
  gives 0 python tune.py status tiny "${told[@]}" --json
  says '"trials": '
  gives 0 python tune.py report tiny "${told[@]}" --format md
  says 'Report: /mnt/studies/tiny/report.md'
  gives 0 python tune.py best tiny "${told[@]}"
  says 'g_pretrain_steps'
  gives 0 python tune.py resume tiny "${told[@]}"
  says "All trials of 'tiny' have ended"

  step "What cannot work is one error"
  gives 2 python tune.py submit tests/cluster/tiny.yaml --address $DASHBOARD --storage runs
  one_error
  gives 2 python tune.py submit tests/cluster/tiny.yaml --address $DASHBOARD --storage /tmp/studies # each machine has its own
  one_error
  says 'does not share'
  python -c "import numpy; numpy.save('$HOME/scene.npy', numpy.random.rand(3, 128, 256).astype('float32'))"
  sed "s#Data: {#Data: {path: $HOME/scene.npy, #; s#study: tiny#study: here#" tests/cluster/tiny.yaml > here.yaml
  gives 2 python tune.py submit here.yaml "${told[@]}"
  one_error
  says 'is on this machine'
  kill $pid

  step "End the cluster"
  as_told 0 'ray down ray_cluster.yaml' -y
  wait_for 150 "the end of Ray on both machines" nothing_is_left
  step "All of it was as docs/cluster.md says."
}

worker_is_there() {
  ray exec $EDITED "python -c 'import ray; ray.init(logging_level=40); assert len(ray.nodes()) == 2'" \
    < /dev/null > /dev/null 2>&1
}
ss_of() { ip netns exec "$1" ss -Hltn; }
listens() { ss_of "$1" | grep -Eq -- "$2" || fail "$1 does not listen on $2"; }
nothing_is_left() { ! { inside head args= && inside worker args=; } | grep -q '[r]ay'; }

case ${1-} in
  --laptop) laptop ;;
  --machine) machine "$2" ;;
  *) prepare "$@" ;;
esac
