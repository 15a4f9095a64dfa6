// Self-checking: a run of every pass that is built, as a host would make it, each word and beat that comes out against
// lightnorm_axi_vectors.vh, which is from the golden model. Ends with PASS, or with an error and exit status 1. Works in
// any simulator of Verilog-2005 that has $fatal (SystemVerilog); it needs lightnorm_axi.v and nothing else.
`timescale 1ns / 1ps

module lightnorm_axi_tb;
    `include "lightnorm_axi_vectors.vh"

    reg aclk = 0, aresetn = 1; // reset falls after time 0: an event that every simulator sees
    always #5 aclk = !aclk;

    // AXI4-Lite
    reg [31:0] awaddr = 0, araddr = 0, wdata = 0;
    reg awvalid = 0, wvalid = 0, bready = 0, arvalid = 0, rready = 0;
    wire awready, wready, bvalid, arready, rvalid, irq;
    wire [1:0] bresp, rresp;
    wire [31:0] rdata;

    // streams: the number of the next beat, and of the first that must still wait
    integer x_next = 0, x_limit = 0, output_next = 0;
    wire x_valid = x_next < x_limit;
    wire x_ready, output_valid, output_last;
    wire [OUTPUT_BITS - 1:0] output_data;
    wire [X_BITS:0] x_beat = x_beats[x_next];
    reg [1:0] rest = 0; // the receiver rests in one cycle of four
    wire output_ready = rest != 0;
`ifdef LIGHTNORM_BACKWARD
    integer grad_next = 0, grad_limit = 0;
    wire grad_valid = grad_next < grad_limit;
    wire grad_ready;
    wire [GRAD_BITS:0] grad_beat = grad_beats[grad_next];
`endif

`ifdef LIGHTNORM_STREAMS
    integer parameter_next = 0, parameter_limit = 0, result_next = 0;
    wire parameter_valid = parameter_next < parameter_limit;
    wire parameter_ready, result_valid, result_last;
    wire [31:0] result_data;
    wire [32:0] parameter_word = parameter_words[parameter_next];
`endif

    lightnorm_axi dut (
        .aclk(aclk), .aresetn(aresetn), .irq(irq),
        .s_axil_awaddr(awaddr[ADDRESS_BITS - 1:0]), .s_axil_awprot(3'd0), .s_axil_awvalid(awvalid),
        .s_axil_awready(awready), .s_axil_wdata(wdata), .s_axil_wstrb(4'hf), .s_axil_wvalid(wvalid),
        .s_axil_wready(wready), .s_axil_bresp(bresp), .s_axil_bvalid(bvalid), .s_axil_bready(bready),
        .s_axil_araddr(araddr[ADDRESS_BITS - 1:0]), .s_axil_arprot(3'd0), .s_axil_arvalid(arvalid),
        .s_axil_arready(arready), .s_axil_rdata(rdata), .s_axil_rresp(rresp), .s_axil_rvalid(rvalid),
        .s_axil_rready(rready),
`ifdef LIGHTNORM_BACKWARD
        .s_axis_grad_tdata(grad_beat[GRAD_BITS - 1:0]), .s_axis_grad_tkeep({GRAD_BITS / 8{1'b1}}),
        .s_axis_grad_tlast(grad_beat[GRAD_BITS]), .s_axis_grad_tvalid(grad_valid), .s_axis_grad_tready(grad_ready),
`endif
`ifdef LIGHTNORM_STREAMS
        .s_axis_param_tdata(parameter_word[31:0]), .s_axis_param_tkeep(4'hf), .s_axis_param_tlast(parameter_word[32]),
        .s_axis_param_tvalid(parameter_valid), .s_axis_param_tready(parameter_ready),
        .m_axis_result_tdata(result_data), .m_axis_result_tkeep(), .m_axis_result_tlast(result_last),
        .m_axis_result_tvalid(result_valid), .m_axis_result_tready(1'b1),
`endif
        .s_axis_tdata(x_beat[X_BITS - 1:0]), .s_axis_tkeep({X_BITS / 8{1'b1}}), .s_axis_tlast(x_beat[X_BITS]),
        .s_axis_tvalid(x_valid), .s_axis_tready(x_ready),
        .m_axis_tdata(output_data), .m_axis_tkeep(), .m_axis_tlast(output_last), .m_axis_tvalid(output_valid),
        .m_axis_tready(output_ready)
    );

    always @(posedge aclk) begin
        rest <= rest + 1;
        if (x_valid && x_ready) x_next <= x_next + 1;
`ifdef LIGHTNORM_BACKWARD
        if (grad_valid && grad_ready) grad_next <= grad_next + 1;
`endif
`ifdef LIGHTNORM_STREAMS
        if (parameter_valid && parameter_ready) parameter_next <= parameter_next + 1;
        if (aresetn && result_valid) begin
            result_next <= result_next + 1;
            if ({result_last, result_data} !== result_words[result_next])
                $fatal(1, "result %0d is %h, not %h", result_next, {result_last, result_data}, result_words[result_next]);
        end
`endif
        if (aresetn && output_valid && output_ready) begin
            output_next <= output_next + 1;
            if ({output_last, output_data} !== output_beats[output_next])
                $fatal(1, "output beat %0d is %h, not %h", output_next, {output_last, output_data},
                       output_beats[output_next]);
        end
    end

    task write(input [31:0] offset, input [31:0] word);
        begin
            awaddr <= offset;
            wdata <= word;
            awvalid <= 1;
            wvalid <= 1;
            bready <= 1;
            @(posedge aclk);
            while (!awready || !wready) @(posedge aclk); // the block takes both in one cycle
            awvalid <= 0;
            wvalid <= 0;
            while (!bvalid) @(posedge aclk);
            bready <= 0;
            if (bresp != 0) $fatal(1, "writing %h is refused", offset);
        end
    endtask

    task read(input [31:0] offset, output [31:0] word);
        begin
            araddr <= offset;
            arvalid <= 1;
            rready <= 1;
            @(posedge aclk);
            while (!arready) @(posedge aclk);
            arvalid <= 0;
            while (!rvalid) @(posedge aclk);
            rready <= 0;
            word = rdata;
            if (rresp != 0) $fatal(1, "reading %h is refused", offset);
        end
    endtask

    integer run, written = 0, compared = 0, polls;
    reg [31:0] word;

    initial begin
        @(posedge aclk);
        aresetn <= 0;
        repeat (4) @(posedge aclk);
        aresetn <= 1;
        @(posedge aclk);
        read(ID_OFFSET, word);
        if (word != ID_VALUE) $fatal(1, "ID is %h", word);
        read(CONFIG_HASH_OFFSET, word);
        if (word != CONFIG_HASH_VALUE) $fatal(1, "lightnorm_axi.v has configuration %h, not %h", word, CONFIG_HASH_VALUE);
        for (run = 0; run < RUNS; run = run + 1) begin
            while (written < writes_end[run]) begin
                write(writes[written][63:32], writes[written][31:0]);
                written = written + 1;
            end
            x_limit <= x_end[run];
`ifdef LIGHTNORM_BACKWARD
            grad_limit <= grad_end[run];
`endif
`ifdef LIGHTNORM_STREAMS
            parameter_limit <= parameter_end[run];
`endif
            write(CTRL_OFFSET, CTRL_START_MASK);
            polls = 0;
            word = 0;
            while (!(word & CTRL_DONE_MASK)) begin
                polls = polls + 1;
                read(STATUS_OFFSET, word);
                if (word & STATUS_ERRORS) $fatal(1, "run %0d ends with STATUS %h", run, word);
                if (polls == POLLS) $fatal(1, "run %0d does not end", run);
                read(CTRL_OFFSET, word);
            end
            if (output_next != output_end[run])
                $fatal(1, "run %0d: %0d beats have come out, not %0d", run, output_next, output_end[run]);
`ifdef LIGHTNORM_STREAMS
            if (result_next != result_end[run])
                $fatal(1, "run %0d: %0d results have come out, not %0d", run, result_next, result_end[run]);
            compared = result_next;
`else
            while (compared < results_end[run]) begin
                read(results[compared][63:32], word);
                if (word != results[compared][31:0])
                    $fatal(1, "run %0d: the result at %h is %h, not %h", run, results[compared][63:32], word,
                           results[compared][31:0]);
                compared = compared + 1;
            end
`endif
        end
        $display("PASS: %0d runs, %0d beats, %0d results equal the golden model", RUNS, output_next, compared);
        $finish;
    end
endmodule
