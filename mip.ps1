# Runs the command line: .\mip.ps1 --help. The first run makes .venv (see launcher.py).
$ErrorActionPreference = 'Stop'

$onWindows = $env:OS -eq 'Windows_NT'
$relative = if ($onWindows) { '.venv\Scripts\python.exe' } else { '.venv/bin/python' }
$python = Join-Path $PSScriptRoot $relative
if (-not (Test-Path $python)) {
    $python = $null
    foreach ($name in 'python3', 'python', 'py') {
        if (-not (Get-Command $name -ErrorAction SilentlyContinue)) { continue }
        & $name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>$null
        if ($LASTEXITCODE -eq 0) { $python = $name; break }
    }
    if (-not $python) {
        [Console]::Error.WriteLine('mip: needs Python 3.11 or newer, and found none; install it, then open a new terminal')
        exit 1
    }
}
& $python -P (Join-Path $PSScriptRoot 'launcher.py') @args
exit $LASTEXITCODE
