/* Driver of the LightNorm block: registers only. Copyright LightNorm authors, Apache-2.0.
 *
 * C99; no allocation, no operating system, no global state. The streams are moved by the system's own DMA: start the
 * run, then let the DMA send x (and, in backward, the gradient, at the same time) and receive the output; beats are laid
 * out as docs/integration.md says. lightnorm_registers.h is written by `lightnorm generate --top axi` and must be that of
 * the block in the hardware, which lightnorm_init checks.
 */
#ifndef LIGHTNORM_H
#define LIGHTNORM_H

#include <stdbool.h>
#include <stdint.h>

#include "lightnorm_registers.h"

/* How a register is reached. Offsets are bytes from the block's base, accesses are whole 32-bit words. */
typedef struct {
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t word);
    void *context; /* handed to both */
} lightnorm_bus;

typedef enum {
    LIGHTNORM_OK = 0,
    LIGHTNORM_ERROR_ARGUMENT, /* an argument is outside of its range or of what is built */
    LIGHTNORM_ERROR_DEVICE,   /* there is no LightNorm of this configuration at this address */
    LIGHTNORM_ERROR_BUSY,     /* a run is in progress, or an error has not been recovered from */
    LIGHTNORM_ERROR_TIMEOUT,  /* the run had not ended after the polls allowed; it goes on */
    LIGHTNORM_ERROR_RUN       /* the run ended with an error: see lightnorm_status */
} lightnorm_result;

typedef enum {
    LIGHTNORM_INFER = LIGHTNORM_MODE_INFER,
    LIGHTNORM_TRAIN = LIGHTNORM_MODE_TRAIN,
    LIGHTNORM_BACKWARD = LIGHTNORM_MODE_BACKWARD
} lightnorm_mode;

typedef struct {
    lightnorm_bus bus;
} lightnorm;

/* What a layer's runs have in common. Constants are float32 words, made by lightnorm_layer_constants or a host. */
typedef struct {
    uint32_t channels;     /* 1 to LIGHTNORM_MAX_CHANNELS */
    uint32_t elements;     /* per channel, 1 to 2^24 */
    uint32_t chunk_blocks; /* blocks per chunk, at least 1 */
    uint32_t inv_count;
    uint32_t range_gain;
    uint32_t eps;
    uint32_t momentum;
} lightnorm_layer;

/* Per-channel values of one channel, float32. */
typedef struct {
    float running_mean, running_sigma, weight, bias;
} lightnorm_parameters;

typedef struct {
    float mean, sigma, running_mean, running_sigma;
} lightnorm_statistics;

typedef struct {
    float bias, weight;
} lightnorm_gradients;

typedef struct {
    uint32_t cycles, input_stalls, output_stalls, saturated;
} lightnorm_counters;

/* Finds the block: checks its identity, register map and configuration. Raises no interrupt, starts nothing. */
lightnorm_result lightnorm_init(lightnorm *device, lightnorm_bus bus);

/* The constants of a layer of `channels` channels of `elements` elements, whose ranges are averaged over (at most)
 * `chunks` chunks. eps at least 0, momentum 0 to 1. Needs no hardware, but the C library's <math.h>. */
lightnorm_result lightnorm_layer_constants(lightnorm_layer *layer, uint32_t channels, uint32_t elements,
                                           uint32_t chunks, float eps, float momentum);

/* Writes the words of a layer's runs. */
lightnorm_result lightnorm_configure(lightnorm *device, const lightnorm_layer *layer);

/* Writes a channel's parameters; a run reads them, and keeps them. Backward reads `weight` only.
 *
 * A block without a window (max_channels = 0, no LIGHTNORM_WINDOW_OFFSET) has streams instead, and this function and the
 * two that read results return LIGHTNORM_ERROR_ARGUMENT. There the DMA sends an array of lightnorm_parameters, one for
 * each channel, as a packet, in backward an array of weights (float); and it receives a packet that is an array of
 * lightnorm_statistics after training, of lightnorm_gradients after backward. */
lightnorm_result lightnorm_write_parameters(lightnorm *device, uint32_t channel, const lightnorm_parameters *values);

/* Starts a run; BUSY unless the block is ready. Afterwards the streams may move. */
lightnorm_result lightnorm_start(lightnorm *device, lightnorm_mode mode);

/* Whether, as configured, a run of this mode wants every channel sent twice in a row (in backward: x once, the gradient
 * twice). */
bool lightnorm_two_pass(const lightnorm_layer *layer, lightnorm_mode mode);

/* Waits until the run has ended, reading registers at most `polls` times. */
lightnorm_result lightnorm_wait(lightnorm *device, uint32_t polls);

/* Results of a channel: of the last training run, of the last backward run (which overwrites mean and sigma). */
lightnorm_result lightnorm_read_statistics(lightnorm *device, uint32_t channel, lightnorm_statistics *values);
lightnorm_result lightnorm_read_gradients(lightnorm *device, uint32_t channel, lightnorm_gradients *values);

/* LIGHTNORM_STATUS_*_MASK bits since they were cleared. */
uint32_t lightnorm_status(lightnorm *device);
void lightnorm_clear_status(lightnorm *device, uint32_t bits);

/* Counters of the last run. */
lightnorm_counters lightnorm_read_counters(lightnorm *device);

/* Interrupts at the end of a run and at an error; lightnorm_acknowledge clears what has raised one and returns it
 * (LIGHTNORM_ISR_*_MASK). */
void lightnorm_enable_interrupts(lightnorm *device, bool done, bool error);
uint32_t lightnorm_acknowledge(lightnorm *device);

/* Ends a run that can not end by itself; then recover. */
void lightnorm_abort(lightnorm *device);

/* After an error: clears it, and waits until a run can be started. Stop or finish the DMA first: input is dropped until
 * its packets have ended. With `forget`, packets that were begun count as ended (their rest must never come). */
lightnorm_result lightnorm_recover(lightnorm *device, bool forget, uint32_t polls);

#endif
