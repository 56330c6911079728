# Tests the admin API of the platform at MIP_API_BASE: register, list, show, patch, scale down, hard delete.
# All it does is `mip deploy test-admin`.
$ErrorActionPreference = 'Stop'

& (Join-Path $PSScriptRoot '../mip.ps1') deploy test-admin @args
exit $LASTEXITCODE
