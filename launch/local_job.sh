#!/usr/bin/env bash
# Stage A as a Ray job on this machine: start a head with token authentication, submit, follow, stop that head again.
#
#   launch/local_job.sh OUTPUT [key=value …]         e.g. launch/local_job.sh /tmp/run max_steps=20 algo=ppo
#
# OUTPUT is made absolute: a job's working folder is a copy that goes away. A second Ray on this machine is left alone.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 OUTPUT [key=value …]" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
[ -d "$here/.venv/bin" ] && PATH="$here/.venv/bin:$PATH"
output=$(realpath -m "$1"); shift

export RAY_AUTH_MODE=token                       # for `ray start` and `ray job submit` alike: without it any local user may submit
[ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || ray get-auth-token --generate >/dev/null   # kept in ~/.ray/auth_token
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0

read -r gcs dashboard client agent < <(python - <<'PY'
import socket
sockets = [socket.socket() for _ in range(4)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PY
)
log=$(mktemp)
# --block keeps the head a child of this script, so that exactly this head is stopped. Everything listens on loopback.
# Four declared cores hold one learner, one rollout and one reward worker, also where there are only two real ones.
ray start --head --block --disable-usage-stats --num-cpus="${R0_CPUS:-4}" --object-store-memory=500000000 \
  --node-ip-address=127.0.0.1 --port="$gcs" --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent" \
  --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
  ${R0_RAY_TEMP:+--temp-dir="$R0_RAY_TEMP"} >"$log" 2>&1 &
head=$!
trap 'kill -TERM "$head" 2>/dev/null || true; wait "$head" 2>/dev/null || true; rm -f "$log"' EXIT

answers() {  # also where it asks for the token; `ray job list` would take 3 s to ask
  python - "$1" <<'PY'
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError as error:
    sys.exit(error.code >= 500)
except OSError:
    sys.exit(1)
PY
}

address="http://127.0.0.1:$dashboard"
for _ in $(seq 120); do
  answers "$address/api/jobs/" && break
  kill -0 "$head" 2>/dev/null || { cat "$log" >&2; echo "$0: the Ray head did not start" >&2; exit 1; }
  sleep 1
done

# A job's status is `ray job submit`'s exit code: 0 when the run finished. The same command again resumes.
ray job submit --address "$address" -- \
  "$(command -v python)" -m r0.launch stage_a "$here/r0/configs/stage_a_tiny.yaml" "output=$output" "$@"
