// The two ends of a stream, for simulation only. A generated module `harness` joins them to the machine.
//
// Each stream has a file <NAME>.in, which begins with the stalls and the number of words to expect, and in a source goes
// on with one word a line; and a file <NAME>.log, for what happened. Verilog-2005, without delays: the same cycles in
// every simulator.

// Decides in which cycles its stream rests. A rest begins with a chance of threshold/65536 and lasts shortest to
// shortest + span - 1 cycles.
module harness_stall (
    input wire clk,
    input wire [31:0] seed,
    input wire [16:0] threshold,
    input wire [15:0] shortest,
    input wire [15:0] span,
    output wire stall,
    output reg [31:0] noise
);
    reg [15:0] left;
    wire begins = {1'b0, noise[31:16]} < threshold;
    assign stall = left != 0 || begins;

    function [31:0] xorshift(input [31:0] state);
        begin
            xorshift = state ^ (state << 13);
            xorshift = xorshift ^ (xorshift >> 17);
            xorshift = xorshift ^ (xorshift << 5);
        end
    endfunction

    initial begin
        noise = 0;
        left = 0;
    end

    always @(posedge clk) begin
        noise <= xorshift(noise == 0 ? seed : noise);
        if (left != 0) left <= left - 1;
        else if (begins) left <= shortest - 1 + noise[15:0] % span;
    end
endmodule


// Sends the words of its file. `valid` never looks at `ready`; between words the payload is undefined, or noise where
// the simulator has no undefined values. The top bit of a word in the file closes a run; then a line is logged:
// cycle of the first offer, of the first and of the last transfer, cycles held (valid, not ready), cycles starved
// (ready, not valid), note.
module harness_source #(
    parameter WIDTH = 1,
    parameter NAME = ""
) (
    input wire clk,
    input wire rst,
    input wire [31:0] cycle,
    input wire close,
    input wire note,
    output reg [WIDTH-1:0] payload,
    output reg valid,
    input wire ready,
    output wire moved,
    output wire pending,
    output reg failed
);
    localparam START = 4;  // cycles after reset in which a machine must stay silent by itself

    integer file, log, status, expected, sent, offered, first, held, starved, threshold, shortest, span, lazy;
    reg [31:0] seed;
    reg [WIDTH:0] next;
    reg loaded, closing, closed;
    wire stall;
    wire [31:0] noise;
    wire [WIDTH-1:0] garbage = {(WIDTH + 31) / 32{noise}} ^ {WIDTH{1'bx}};

    harness_stall pause (
        .clk(clk), .seed(seed), .threshold(threshold[16:0]), .shortest(shortest[15:0]), .span(span[15:0]),
        .stall(stall), .noise(noise)
    );

    assign moved = valid && ready === 1'b1;
    assign pending = sent != expected;

    initial begin
        file = $fopen({NAME, ".in"}, "r");
        log = $fopen({NAME, ".log"}, "w");
        status = $fscanf(file, "%h %d %d %d %d %d", seed, threshold, shortest, span, lazy, expected);
        status = $fscanf(file, "%h", next);
        loaded = status == 1;
        {valid, failed, closing, closed} = 0;
        {sent, held, starved} = 0;
        offered = -1;
        first = -1;
    end

    always @(posedge clk) begin
        if (rst) valid <= 0;
        else if (!closed) begin
            if (ready === 1'bx && !failed) begin
                $fwrite(log, "fail %0d %0d ready is undefined\n", cycle, sent);
                failed <= 1;
            end
            if (valid && offered < 0) offered = cycle;
            if (valid && !ready) held = held + 1;
            if (!valid && ready) starved = starved + 1;
            if (moved) begin
                sent <= sent + 1;
                if (first < 0) first = cycle;
                if (closing) begin
                    $fwrite(log, "%0d %0d %0d %0d %0d %b\n", offered, first, cycle, held, starved, note);
                    offered = -1;
                    first = -1;
                    held = 0;
                    starved = 0;
                end
            end
            if (!valid || moved) begin
                valid <= loaded && !stall && cycle >= START;
                if (loaded && !stall && cycle >= START) begin
                    {closing, payload} <= next;
                    status = $fscanf(file, "%h", next);
                    loaded = status == 1;
                end else payload <= garbage;
            end
            if (close) begin
                $fwrite(log, "end %0d %0d\n", cycle, sent);
                $fclose(log);
                $fclose(file);
                closed <= 1;
            end
        end
    end
endmodule


// Takes words and logs for each: cycle, cycles held (valid, not ready) and starved (ready, not valid) since the word
// before, payload. Checks the handshake; `lazy` makes it ready only after it has seen valid.
module harness_sink #(
    parameter WIDTH = 1,
    parameter NAME = ""
) (
    input wire clk,
    input wire rst,
    input wire [31:0] cycle,
    input wire close,
    input wire due,
    input wire [WIDTH-1:0] payload,
    input wire valid,
    output reg ready,
    output wire moved,
    output wire complete,
    output reg failed
);
    integer file, log, status, expected, seen, held, starved, threshold, shortest, span, lazy;
    reg [31:0] seed;
    reg [WIDTH-1:0] offer;
    reg was_reset, waiting, closed;
    wire stall;
    wire [31:0] noise;

    harness_stall pause (
        .clk(clk), .seed(seed), .threshold(threshold[16:0]), .shortest(shortest[15:0]), .span(span[15:0]),
        .stall(stall), .noise(noise)
    );

    assign complete = seen >= expected;
    assign moved = valid === 1'b1 && ready && !complete;

    initial begin
        file = $fopen({NAME, ".in"}, "r");
        log = $fopen({NAME, ".log"}, "w");
        status = $fscanf(file, "%h %d %d %d %d %d", seed, threshold, shortest, span, lazy, expected);
        $fclose(file);
        {ready, failed, was_reset, waiting, closed} = 0;
        {seen, held, starved} = 0;
    end

    always @(posedge clk) begin
        was_reset <= rst;
        if (rst || closed) ready <= 0;
        else begin
            ready <= complete || (lazy != 0 ? valid && !ready : !stall);
            waiting <= valid && !ready;
            offer <= payload;
            if (valid && ready) begin
                $fwrite(log, "%0d %0d %0d %h\n", cycle, held, starved, payload);
                seen <= seen + 1;
                held = 0;
                starved = 0;
            end
            else if (valid) held = held + 1;
            else if (ready) starved = starved + 1;
        end
        if (!failed && !closed && (was_reset || !rst)) begin
            failed <= 1;
            if (valid === 1'bx) $fwrite(log, "fail %0d %0d valid is undefined\n", cycle, seen);
            else if (valid && rst) $fwrite(log, "fail %0d %0d valid is high in reset\n", cycle, seen);
            else if (valid && !due) $fwrite(log, "fail %0d %0d valid is high before any run was asked for\n", cycle, seen);
            else if (waiting && !valid) $fwrite(log, "fail %0d %0d valid fell before ready rose\n", cycle, seen);
            else if (waiting && payload !== offer)
                $fwrite(log, "fail %0d %0d payload changed while waiting: %h became %h\n", cycle, seen, offer, payload);
            else failed <= 0;
        end
        if (close && !closed) begin
            $fwrite(log, "end %0d %0d\n", cycle, seen);
            $fclose(log);
            closed <= 1;
        end
    end
endmodule
