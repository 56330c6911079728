#!/bin/sh
# Tests the admin API of the platform at MIP_API_BASE: register, list, show, patch, scale down, hard delete.
#   . ~/.mip/env; test/test-admin-api.sh                              a platform on this machine
#   eval "$(./mip env --stack ImgPipeline)"; test/test-admin-api.sh   one on AWS
# All it does is `mip deploy test-admin`.
set -eu
exec "$(dirname "$(readlink -f "$0")")/../mip" deploy test-admin "$@"
