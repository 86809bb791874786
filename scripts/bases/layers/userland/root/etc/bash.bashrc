# System-wide .bashrc for interactive shells.
[ -z "$PS1" ] && return
