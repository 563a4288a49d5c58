/* Slopes of the decays, and what a spec owns. */
#include "model/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int floor_pow2(int n) {
    int p = 1;
    while (p <= n / 2)
        p *= 2;
    return p;
}

double mdl_slope(int h, int H) {
    int p = floor_pow2(H);
    if (h < p)
        return exp2(-8.0 * (h + 1) / p);
    /* The heads beyond the power of two take every other slope of the next series. */
    return exp2(-8.0 * (2 * (h - p) + 1) / (2.0 * p));
}

void mdl_layer_slopes(double *s, int H, int layer, int n_layers) {
    double ratio = n_layers > 1 ? (double)layer / (n_layers - 1) : 0.0;
    float factor = (float)(1.0 - ratio + 1e-5);
    for (int h = 0; h < H; h++) {
        float slope = (float)mdl_slope(h, H);
        float product = slope * factor;
        s[h] = (double)product;
    }
}

void mdl_spec_clear(mdl_spec *spec) {
    if (!spec)
        return;
    free(spec->layers);
    memset(spec, 0, sizeof *spec);
}
