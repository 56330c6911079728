#!/bin/sh
# Makes the platform on AWS, or brings it up to date:
#   ./deploy-complete.sh --region us-east-1 --account 123456789012
#   ./deploy-complete.sh --test-only
# All it does is `mip deploy run`; --help says the rest.
set -eu
exec "$(dirname "$(readlink -f "$0")")/../mip" deploy run "$@"
