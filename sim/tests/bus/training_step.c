/* A host program: a training step of a layer through the driver, its results checked. Returns 0, or the line that found
 * something wrong. */
#include <string.h>

#include "lightnorm.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) return __LINE__; \
    } while (0)

enum { POLLS = 5000 };

typedef void (*start_dma)(int mode); /* sends the layer's packets in the background */

int constants(uint32_t channels, uint32_t elements, uint32_t chunks, float eps, float momentum, lightnorm_layer *layer);
int training_step(lightnorm_bus bus, start_dma dma, const lightnorm_layer *layer, const lightnorm_parameters *parameters,
                  const lightnorm_statistics *statistics, const lightnorm_gradients *gradients);

int constants(uint32_t channels, uint32_t elements, uint32_t chunks, float eps, float momentum, lightnorm_layer *layer) {
    return lightnorm_layer_constants(layer, channels, elements, chunks, eps, momentum);
}

int training_step(lightnorm_bus bus, start_dma dma, const lightnorm_layer *layer, const lightnorm_parameters *parameters,
                  const lightnorm_statistics *statistics, const lightnorm_gradients *gradients) {
    lightnorm device;
    lightnorm_bus nothing = {0};
    lightnorm_layer wrong = *layer;

    CHECK(lightnorm_init(&device, nothing) == LIGHTNORM_ERROR_ARGUMENT);
    CHECK(lightnorm_init(&device, bus) == LIGHTNORM_OK);
    lightnorm_enable_interrupts(&device, true, true);

    wrong.channels = LIGHTNORM_MAX_CHANNELS + 1;
    CHECK(lightnorm_configure(&device, &wrong) == LIGHTNORM_ERROR_ARGUMENT);
    CHECK(lightnorm_write_parameters(&device, LIGHTNORM_MAX_CHANNELS, parameters) == LIGHTNORM_ERROR_ARGUMENT);
    CHECK(lightnorm_configure(&device, layer) == LIGHTNORM_OK);
    for (uint32_t channel = 0; channel < layer->channels; channel++) {
        CHECK(lightnorm_write_parameters(&device, channel, &parameters[channel]) == LIGHTNORM_OK);
    }

    /* forward */
    CHECK(lightnorm_start(&device, LIGHTNORM_TRAIN) == LIGHTNORM_OK);
    CHECK(lightnorm_start(&device, LIGHTNORM_TRAIN) == LIGHTNORM_ERROR_BUSY);
    CHECK(lightnorm_configure(&device, layer) == LIGHTNORM_ERROR_BUSY);
    CHECK(lightnorm_wait(&device, 3) == LIGHTNORM_ERROR_TIMEOUT);
    dma(LIGHTNORM_TRAIN);
    CHECK(lightnorm_wait(&device, POLLS) == LIGHTNORM_OK);
    CHECK(lightnorm_acknowledge(&device) == LIGHTNORM_ISR_DONE_MASK);
    CHECK(lightnorm_read_counters(&device).cycles > layer->elements / LIGHTNORM_LANES);
    for (uint32_t channel = 0; channel < layer->channels; channel++) {
        lightnorm_statistics found;
        CHECK(lightnorm_read_statistics(&device, channel, &found) == LIGHTNORM_OK);
        CHECK(memcmp(&found, &statistics[channel], sizeof found) == 0);
    }

    /* a run that is given up */
    CHECK(lightnorm_start(&device, LIGHTNORM_INFER) == LIGHTNORM_OK);
    lightnorm_abort(&device);
    CHECK(lightnorm_wait(&device, POLLS) == LIGHTNORM_ERROR_RUN);
    CHECK((lightnorm_status(&device) & LIGHTNORM_STATUS_ERRORS) == LIGHTNORM_STATUS_ABORTED_MASK);
    CHECK(lightnorm_start(&device, LIGHTNORM_TRAIN) == LIGHTNORM_ERROR_BUSY);
    CHECK(lightnorm_recover(&device, false, POLLS) == LIGHTNORM_OK);
    CHECK(lightnorm_acknowledge(&device) == LIGHTNORM_ISR_ERROR_MASK);

    /* backward: the parameters are still there */
    CHECK(lightnorm_start(&device, LIGHTNORM_BACKWARD) == LIGHTNORM_OK);
    dma(LIGHTNORM_BACKWARD);
    CHECK(lightnorm_wait(&device, POLLS) == LIGHTNORM_OK);
    for (uint32_t channel = 0; channel < layer->channels; channel++) {
        lightnorm_gradients found;
        CHECK(lightnorm_read_gradients(&device, channel, &found) == LIGHTNORM_OK);
        CHECK(memcmp(&found, &gradients[channel], sizeof found) == 0);
    }
    return 0;
}
