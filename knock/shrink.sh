#!/bin/sh
# Takes out of a client that was built with `--profile client` what it never needs: a program that aborts on
# panic never unwinds, and the tables for that are a sixth of it.
set -eu
objcopy --remove-section .eh_frame --remove-section .eh_frame_hdr --remove-section .gcc_except_table "$1"
