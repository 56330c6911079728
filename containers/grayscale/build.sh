#!/bin/sh
# Compiles the algorithm: build.sh INCLUDE OUT. C++ and OpenMP are linked in, so that it runs where only libc is.
set -eu
here=$(dirname "$0")
object=$2.o
g++ -std=c++17 -O3 -ffp-contract=off -fopenmp -Wall -Wextra -Wconversion -Werror -I "$1" -c "$here/grayscale.cpp" -o "$object"
g++ "$object" -o "$2" -static-libstdc++ -static-libgcc -l:libgomp.a -pthread -ldl
rm "$object"
