# Stands in for Vivado: every command that package_ip.tcl may use, as far as it can be known from its documentation
# (UG1118, UG835), with what the commands were given as a list of Tcl dictionaries at the end.
# tclsh vivado.tcl SCRIPT INTERFACE...   the interfaces that the Verilog's attributes lead to.
set script [lindex $argv 0]
set inferred [lrange $argv 1 end]
set objects {}

proc created {kind name parent} {
    global objects
    set object "$parent/$kind:$name"
    if {[dict exists $objects $object]} { error "$object is there twice" }
    dict set objects $object [dict create name $name]
    return $object
}
proc existing {object} {
    global objects
    if {![dict exists $objects $object]} { error "there is no $object" }
    return $object
}
proc set_property {name value object} {
    global objects
    dict set objects [existing $object] [string tolower $name] $value
}
proc get_property {name object} {
    global objects
    return [dict get $objects [existing $object] [string tolower $name]]
}
proc create_project {-force name folder} { created project $name {} }
proc add_files {-norecurse file} {
    if {![file exists $file]} { error "there is no $file" }
    created file [file tail $file] {}
}
proc get_files {name} { existing /file:$name }
proc current_fileset {} { return [existing /fileset:sources_1] }
proc update_compile_order {-fileset name} { existing /fileset:$name }
proc close_project {} { existing /project:package_ip }
created fileset sources_1 {}

namespace eval ipx {
    proc package_project {args} {
        set options [dict create {*}[lrange $args 0 7]]
        if {[lrange $args 8 end] ne {-import_files -force}} { error "package_project $args" }
        created core core {}
        foreach {name value} $options { set_property [string range $name 1 end] $value /core:core }
        foreach name $::inferred { created interface $name /core:core }
        created map inferred /core:core
    }
    proc current_core {} { existing /core:core }
    proc get_bus_interfaces {args} {
        if {[lindex $args 0] eq "-quiet"} { set args [lrange $args 1 end] } else { existing /core:core/interface:[lindex $args 0] }
        lassign $args name of core
        if {$of ne "-of_objects"} { error "get_bus_interfaces $args" }
        set found "[existing $core]/interface:$name"
        return [expr {[dict exists $::objects $found] ? [list $found] : {}}]
    }
    proc associate_bus_interfaces {-busif name -clock clock core} {
        existing $core/interface:$clock
        set_property clock $clock $core/interface:$name
    }
    proc get_memory_maps {-quiet -of_objects core} {
        return [lsearch -all -inline -glob [dict keys $::objects] "$core/map:*"]
    }
    proc remove_memory_map {name core} { dict unset ::objects [existing $core/map:$name] }
    proc add_memory_map {name core} { created map $name [existing $core] }
    proc add_address_block {name map} { created block $name [existing $map] }
    proc add_register {name block} { created register $name [existing $block] }
    proc add_field {name register} { created field $name [existing $register] }
    proc create_xgui_files {core} { existing $core }
    proc update_checksums {core} { existing $core }
    proc check_integrity {core} { existing $core; return 1 }
    proc save_core {core} { set_property saved 1 $core }
}

source $script
foreach {object properties} $objects {
    puts [join [list $object {*}$properties] "\t"]
}
