/* Driver of the LightNorm block. Copyright LightNorm authors, Apache-2.0. */
#include "lightnorm.h"

#include <string.h>

static uint32_t get(lightnorm *device, uint32_t offset) {
    return device->bus.read(device->bus.context, offset);
}

static void set(lightnorm *device, uint32_t offset, uint32_t word) {
    device->bus.write(device->bus.context, offset, word);
}

static bool is_ready(lightnorm *device) {
    return (get(device, LIGHTNORM_CTRL_OFFSET) & LIGHTNORM_CTRL_READY_MASK) != 0;
}

static bool is_idle(lightnorm *device) {
    return (get(device, LIGHTNORM_CTRL_OFFSET) & LIGHTNORM_CTRL_IDLE_MASK) != 0;
}

static bool is_built(lightnorm_mode mode) {
    switch (mode) {
    case LIGHTNORM_INFER:
        return LIGHTNORM_CAPS0_INFER_VALUE != 0;
    case LIGHTNORM_TRAIN:
        return LIGHTNORM_CAPS0_TRAIN_VALUE != 0;
    case LIGHTNORM_BACKWARD:
        return LIGHTNORM_CAPS0_BACKWARD_VALUE != 0;
    }
    return false;
}

lightnorm_result lightnorm_init(lightnorm *device, lightnorm_bus bus) {
    if (bus.read == NULL || bus.write == NULL) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    device->bus = bus;
    if (get(device, LIGHTNORM_ID_OFFSET) != LIGHTNORM_ID_VALUE ||
        (get(device, LIGHTNORM_VERSION_OFFSET) & LIGHTNORM_VERSION_MAJOR_MASK) >> LIGHTNORM_VERSION_MAJOR_SHIFT !=
            LIGHTNORM_VERSION_MAJOR_VALUE ||
        get(device, LIGHTNORM_CONFIG_HASH_OFFSET) != LIGHTNORM_CONFIG_HASH_VALUE) {
        return LIGHTNORM_ERROR_DEVICE;
    }
    return LIGHTNORM_OK;
}

lightnorm_result lightnorm_configure(lightnorm *device, const lightnorm_layer *layer) {
    if (layer->channels < 1 || layer->channels > LIGHTNORM_MAX_CHANNELS || layer->elements < 1 ||
        layer->elements > UINT32_C(1) << 24 || layer->chunk_blocks < 1) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    if (!is_idle(device)) {
        return LIGHTNORM_ERROR_BUSY;
    }
    set(device, LIGHTNORM_CHANNELS_OFFSET, layer->channels);
    set(device, LIGHTNORM_ELEMENTS_OFFSET, layer->elements);
    set(device, LIGHTNORM_CHUNK_BLOCKS_OFFSET, layer->chunk_blocks);
    set(device, LIGHTNORM_INV_COUNT_OFFSET, layer->inv_count);
    set(device, LIGHTNORM_RANGE_GAIN_OFFSET, layer->range_gain);
    set(device, LIGHTNORM_EPS_OFFSET, layer->eps);
    set(device, LIGHTNORM_MOMENTUM_OFFSET, layer->momentum);
    return LIGHTNORM_OK;
}

lightnorm_result lightnorm_start(lightnorm *device, lightnorm_mode mode) {
    if (!is_built(mode)) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    if (!is_ready(device)) {
        return LIGHTNORM_ERROR_BUSY;
    }
    set(device, LIGHTNORM_MODE_OFFSET, (uint32_t)mode << LIGHTNORM_MODE_MODE_SHIFT);
    set(device, LIGHTNORM_CTRL_OFFSET, LIGHTNORM_CTRL_START_MASK);
    return (lightnorm_status(device) & LIGHTNORM_STATUS_ILLEGAL_RUN_MASK) ? LIGHTNORM_ERROR_RUN : LIGHTNORM_OK;
}

bool lightnorm_two_pass(const lightnorm_layer *layer, lightnorm_mode mode) {
    return mode != LIGHTNORM_INFER && layer->elements > (uint64_t)LIGHTNORM_BUFFER_BEATS * LIGHTNORM_LANES;
}

lightnorm_result lightnorm_wait(lightnorm *device, uint32_t polls) {
    while (polls-- > 0) {
        if (get(device, LIGHTNORM_CTRL_OFFSET) & LIGHTNORM_CTRL_DONE_MASK) {
            return LIGHTNORM_OK;
        }
        if (lightnorm_status(device) & LIGHTNORM_STATUS_ERRORS) {
            return LIGHTNORM_ERROR_RUN;
        }
    }
    return LIGHTNORM_ERROR_TIMEOUT;
}

#ifdef LIGHTNORM_WINDOW_OFFSET
static uint32_t to_word(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word;
}

static float from_word(uint32_t word) {
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static uint32_t record(uint32_t channel) {
    return LIGHTNORM_WINDOW_OFFSET + channel * LIGHTNORM_RECORD_BYTES;
}

lightnorm_result lightnorm_write_parameters(lightnorm *device, uint32_t channel, const lightnorm_parameters *values) {
    if (channel >= LIGHTNORM_MAX_CHANNELS) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    if (!is_idle(device)) {
        return LIGHTNORM_ERROR_BUSY;
    }
    set(device, record(channel) + LIGHTNORM_RECORD_RUNNING_MEAN, to_word(values->running_mean));
    set(device, record(channel) + LIGHTNORM_RECORD_RUNNING_SIGMA, to_word(values->running_sigma));
    set(device, record(channel) + LIGHTNORM_RECORD_WEIGHT, to_word(values->weight));
    set(device, record(channel) + LIGHTNORM_RECORD_BIAS, to_word(values->bias));
    return LIGHTNORM_OK;
}

lightnorm_result lightnorm_read_statistics(lightnorm *device, uint32_t channel, lightnorm_statistics *values) {
#ifdef LIGHTNORM_RECORD_MEAN
    if (channel >= LIGHTNORM_MAX_CHANNELS) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    if (!is_idle(device)) {
        return LIGHTNORM_ERROR_BUSY;
    }
    values->mean = from_word(get(device, record(channel) + LIGHTNORM_RECORD_MEAN));
    values->sigma = from_word(get(device, record(channel) + LIGHTNORM_RECORD_SIGMA));
    values->running_mean = from_word(get(device, record(channel) + LIGHTNORM_RECORD_NEW_RUNNING_MEAN));
    values->running_sigma = from_word(get(device, record(channel) + LIGHTNORM_RECORD_NEW_RUNNING_SIGMA));
    return LIGHTNORM_OK;
#else
    (void)device, (void)channel, (void)values, (void)from_word;
    return LIGHTNORM_ERROR_ARGUMENT;
#endif
}

lightnorm_result lightnorm_read_gradients(lightnorm *device, uint32_t channel, lightnorm_gradients *values) {
#ifdef LIGHTNORM_RECORD_GRAD_BIAS
    if (channel >= LIGHTNORM_MAX_CHANNELS) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    if (!is_idle(device)) {
        return LIGHTNORM_ERROR_BUSY;
    }
    values->bias = from_word(get(device, record(channel) + LIGHTNORM_RECORD_GRAD_BIAS));
    values->weight = from_word(get(device, record(channel) + LIGHTNORM_RECORD_GRAD_WEIGHT));
    return LIGHTNORM_OK;
#else
    (void)device, (void)channel, (void)values, (void)from_word;
    return LIGHTNORM_ERROR_ARGUMENT;
#endif
}
#else
/* Parameters and results are streams. */
lightnorm_result lightnorm_write_parameters(lightnorm *device, uint32_t channel, const lightnorm_parameters *values) {
    (void)device, (void)channel, (void)values;
    return LIGHTNORM_ERROR_ARGUMENT;
}

lightnorm_result lightnorm_read_statistics(lightnorm *device, uint32_t channel, lightnorm_statistics *values) {
    (void)device, (void)channel, (void)values;
    return LIGHTNORM_ERROR_ARGUMENT;
}

lightnorm_result lightnorm_read_gradients(lightnorm *device, uint32_t channel, lightnorm_gradients *values) {
    (void)device, (void)channel, (void)values;
    return LIGHTNORM_ERROR_ARGUMENT;
}
#endif

uint32_t lightnorm_status(lightnorm *device) {
    return get(device, LIGHTNORM_STATUS_OFFSET);
}

void lightnorm_clear_status(lightnorm *device, uint32_t bits) {
    set(device, LIGHTNORM_STATUS_OFFSET, bits);
}

lightnorm_counters lightnorm_read_counters(lightnorm *device) {
    lightnorm_counters counters;
    counters.cycles = get(device, LIGHTNORM_CYCLES_OFFSET);
    counters.input_stalls = get(device, LIGHTNORM_INPUT_STALLS_OFFSET);
    counters.output_stalls = get(device, LIGHTNORM_OUTPUT_STALLS_OFFSET);
    counters.saturated = get(device, LIGHTNORM_SATURATED_OFFSET);
    return counters;
}

void lightnorm_enable_interrupts(lightnorm *device, bool done, bool error) {
    set(device, LIGHTNORM_IER_OFFSET, (done ? LIGHTNORM_IER_DONE_MASK : 0) | (error ? LIGHTNORM_IER_ERROR_MASK : 0));
    set(device, LIGHTNORM_GIE_OFFSET, done || error);
}

uint32_t lightnorm_acknowledge(lightnorm *device) {
    uint32_t events = get(device, LIGHTNORM_ISR_OFFSET);
    set(device, LIGHTNORM_ISR_OFFSET, events);
    return events;
}

void lightnorm_abort(lightnorm *device) {
    set(device, LIGHTNORM_CTRL_OFFSET, LIGHTNORM_CTRL_ABORT_MASK);
}

lightnorm_result lightnorm_recover(lightnorm *device, bool forget, uint32_t polls) {
    lightnorm_clear_status(device, LIGHTNORM_STATUS_ERRORS);
    while (polls-- > 0) {
        if (is_ready(device)) {
            return LIGHTNORM_OK;
        }
        if (forget && is_idle(device)) {
            lightnorm_abort(device);
        }
    }
    return LIGHTNORM_ERROR_TIMEOUT;
}
