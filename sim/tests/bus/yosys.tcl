# Says a Yosys script that is written in Tcl as plain Yosys commands: what is no command of Tcl is one of Yosys.
proc yosys {args} {}
proc unknown {args} { puts [join $args] }
source [lindex $argv 0]
