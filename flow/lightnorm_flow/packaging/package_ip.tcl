set here [file dirname [file normalize [info script]]]
set work [file join $here vivado]
set ip [file join $here ip]

create_project -force package_ip $work
add_files -norecurse [file join $here $top.v]
add_files -norecurse [file join $here $top.xdc]
set_property USED_IN {out_of_context synthesis implementation} [get_files $top.xdc]
set_property top $top [current_fileset]
update_compile_order -fileset sources_1
ipx::package_project -root_dir $ip -vendor lightnorm -library lightnorm -taxonomy /UserIP -import_files -force
set core [ipx::current_core]
foreach {name value} $properties {
    set_property $name $value $core
}
set_property auto_family_support_level level_2 $core

# The attributes in the Verilog say what belongs to which interface; one that was not inferred is an error.
foreach {name clocked} $interfaces {
    if {[llength [ipx::get_bus_interfaces -quiet $name -of_objects $core]] != 1} {
        error "interface $name of $top was not inferred"
    }
    if {$clocked} {
        ipx::associate_bus_interfaces -busif $name -clock aclk $core
    }
}

# What was inferred as the map of the registers is an empty block: the real one takes its place.
foreach map [ipx::get_memory_maps -quiet -of_objects $core] {
    ipx::remove_memory_map [get_property name $map] $core
}
set map [ipx::add_memory_map $bus $core]
set_property slave_memory_map_ref $bus [ipx::get_bus_interfaces $bus -of_objects $core]
set block [ipx::add_address_block registers $map]
set_property base_address 0 $block
set_property range $range $block
set_property width 32 $block
set_property usage register $block
foreach {name offset description fields} $registers {
    set register [ipx::add_register $name $block]
    set_property address_offset $offset $register
    set_property size 32 $register
    set_property description $description $register
    foreach {name low bits access write description} $fields {
        set field [ipx::add_field $name $register]
        set_property bit_offset $low $field
        set_property bit_width $bits $field
        set_property access $access $field
        set_property description $description $field
        if {$write ne ""} {
            set_property modified_write_value $write $field
        }
    }
}

ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::check_integrity $core
ipx::save_core $core
close_project
puts "Add $ip to the IP repositories of a design (Settings, IP, Repository)."
