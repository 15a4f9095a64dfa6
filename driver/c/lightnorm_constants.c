/* Constants of a layer: section 3 of docs/arithmetic.md in double precision. Copyright LightNorm authors, Apache-2.0. */
#include "lightnorm.h"

#include <math.h>
#include <string.h>

/* The nearest number with LIGHTNORM_COEF_MAN_BITS fraction bits, ties to even, as a float32 word; what is below
 * float32's normal numbers becomes 0, what is above the largest becomes that. `value` is at least 0. */
static uint32_t round_word(double value) {
    const unsigned dropped = 52 - LIGHTNORM_COEF_MAN_BITS;
    const double largest = ldexp(2.0 - ldexp(1.0, -(int)LIGHTNORM_COEF_MAN_BITS), 127);
    uint64_t bits;
    float rounded;
    uint32_t word;
    memcpy(&bits, &value, sizeof bits);
    bits += (UINT64_C(1) << (dropped - 1)) - 1 + (bits >> dropped & 1);
    bits &= ~((UINT64_C(1) << dropped) - 1);
    memcpy(&value, &bits, sizeof value);
    if (value < ldexp(1.0, -126)) {
        value = 0;
    }
    if (value > largest) {
        value = largest;
    }
    rounded = (float)value;
    memcpy(&word, &rounded, sizeof word);
    return word;
}

/* Expected range of `count` standard normals; trapezoidal rule over the upper half, as in the golden model. */
static double expected_range(double count) {
    const unsigned last = 6000;
    const double step = 12.0 / last;
    double sum = 0;
    for (unsigned point = 0; point <= last; point++) {
        double tail = 0.5 * erfc(step * point / sqrt(2.0));
        double value = -expm1(count * log1p(-tail)) - pow(tail, count);
        sum += point == 0 || point == last ? value / 2 : value;
    }
    return 2 * step * sum;
}

static double gain_constant(uint32_t count) {
    const double pi = 3.14159265358979323846;
    if (count == 1) {
        return 0;
    }
    switch (LIGHTNORM_GAIN) {
    case LIGHTNORM_GAIN_D2:
        return 1 / expected_range(count);
    case LIGHTNORM_GAIN_RANGEBN:
        return 0.5 * 0.35 * (1 + sqrt(pi * log(4.0))) / sqrt(2 * log((double)count));
    default:
        return 1 / sqrt(2 * log((double)count));
    }
}

lightnorm_result lightnorm_layer_constants(lightnorm_layer *layer, uint32_t channels, uint32_t elements,
                                           uint32_t chunks, float eps, float momentum) {
    if (channels < 1 || channels > LIGHTNORM_MAX_CHANNELS || elements < 1 || elements > UINT32_C(1) << 24 ||
        chunks < 1 || !(eps >= 0) || isinf(eps) || !(momentum >= 0 && momentum <= 1)) {
        return LIGHTNORM_ERROR_ARGUMENT;
    }
    uint32_t blocks = (elements - 1) / LIGHTNORM_BLOCK_SIZE + 1;
    uint32_t chunk_blocks = (blocks - 1) / chunks + 1;
    uint64_t chunk = (uint64_t)chunk_blocks * LIGHTNORM_BLOCK_SIZE;
    layer->channels = channels;
    layer->elements = elements;
    layer->chunk_blocks = chunk_blocks;
    layer->inv_count = round_word(1.0 / elements);
    layer->range_gain = round_word(gain_constant(chunk < elements ? (uint32_t)chunk : elements) /
                                   ((blocks - 1) / chunk_blocks + 1));
    layer->eps = round_word(eps);
    layer->momentum = round_word(momentum);
    return LIGHTNORM_OK;
}
