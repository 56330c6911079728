# Makes the platform on AWS, or brings it up to date:
#   .\deploy-complete.ps1 -Region us-east-1 -Account 123456789012
#   .\deploy-complete.ps1 -TestOnly
# All it does is `mip deploy run`; what else is given goes there as it is.
param(
    [string]$Region,
    [string]$Account,
    [switch]$TestOnly,
    [Parameter(ValueFromRemainingArguments = $true)][string[]]$More
)
$ErrorActionPreference = 'Stop'

$arguments = @('deploy', 'run')
if ($Region) { $arguments += @('--region', $Region) }
if ($Account) { $arguments += @('--account', $Account) }
if ($TestOnly) { $arguments += '--test-only' }
if ($More) { $arguments += $More }
& (Join-Path $PSScriptRoot '../mip.ps1') @arguments
exit $LASTEXITCODE
