// The SoC with its clock, and the host's Wishbone port for the simulation to drive.
module harness (
    input wire clk /*verilator public_flat_rw*/, input wire rst /*verilator public_flat_rw*/,
    input wire cyc /*verilator public_flat_rw*/, input wire we /*verilator public_flat_rw*/,
    input wire [29:0] adr /*verilator public_flat_rw*/, input wire [31:0] dat_w /*verilator public_flat_rw*/,
    output wire [31:0] dat_r /*verilator public_flat_rw*/, output wire ack /*verilator public_flat_rw*/,
    output wire err /*verilator public_flat_rw*/
);
    soc soc (.clk(clk), .rst(rst), .host_cyc(cyc), .host_stb(cyc), .host_we(we), .host_adr(adr), .host_dat_w(dat_w),
             .host_sel(4'hf), .host_cti(3'd0), .host_bte(2'd0), .host_dat_r(dat_r), .host_ack(ack), .host_err(err));
endmodule
