#!/usr/bin/env bash
# Installs the system components that tests use, as root or with a sudo that asks nothing.
# `--required` (for CI) fails when one cannot be had; otherwise its tests are skipped and say so.
set -uo pipefail

packages=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || packages+=(chromium)
{ command -v slurmctld && command -v slurmd; } >/dev/null || packages+=(slurmctld slurmd slurm-client munge)
[ ${#packages[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ]; then root=""
elif sudo -n true 2>/dev/null; then root="sudo -n"
else
  echo "not installed: ${packages[*]} (needs root). Enable their tests with: sudo apt-get install ${packages[*]}" >&2
  [ "${1:-}" = "--required" ] && exit 1 || exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { $root apt-get update -qq && $root apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; }; then
  echo "could not install: ${packages[*]}" >&2
  [ "${1:-}" = "--required" ] && exit 1
fi
exit 0
