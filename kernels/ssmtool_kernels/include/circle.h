/* sin, cos and expm1 in double precision without calls and branches, so that loops over them become vector code.
 *
 * Relative errors of a few units in the last place, also next to the zeros: what differences of poles need.
 * Polynomials of sine and cosine: fdlibm, Sun Microsystems 1993. */

#ifndef SSMTOOL_CIRCLE_H
#define SSMTOOL_CIRCLE_H

#include <stdint.h>
#include <string.h>

#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer, kept in the low bits */

/* sin y and cos y, |y| < 1e6. A quarter turn in four parts, of which the first three times an integer are exact. */
static inline void sine_cosine(double y, double *sine, double *cosine) {
    const double shifted = y * 6.36619772367581382433e-01 + ROUNDER, k = shifted - ROUNDER;
    int64_t quarter;
    memcpy(&quarter, &shifted, 8);
    double r = y - k * 1.57079632673412561417e+00;
    r -= k * 6.07710050630396597660e-11;
    r -= k * 2.02226624871116645580e-21;
    r -= k * 8.47842766036889956997e-32;
    const double z = r * r;
    const double s =
        r + r * z *
                (-1.66666666666666324348e-01 +
                 z * (8.33333333332248946124e-03 +
                      z * (-1.98412698298579493134e-04 +
                           z * (2.75573137070700676789e-06 +
                                z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
    const double c =
        1 - 0.5 * z +
        z * z *
            (4.16666666666666019037e-02 +
             z * (-1.38888888888741095749e-03 +
                  z * (2.48015872894767294178e-05 +
                       z * (-2.75573143513906633035e-07 +
                            z * (2.08757232129817482790e-09 - z * 1.13596475577881948265e-11)))));
    const double from_s = quarter & 1 ? c : s, from_c = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -from_s : from_s;
    *cosine = (quarter + 1) & 2 ? -from_c : from_c;
}

/* exp(y) - 1 for y <= 0: 2^k (exp(r) - 1) + (2^k - 1) with |r| <= log(2) / 2. */
static inline double expm1_below(double y) {
    y = y < -708.0 ? -708.0 : y;
    const double shifted = y * 1.44269504088896338700e+00 + ROUNDER, k = shifted - ROUNDER;
    uint64_t bits;
    memcpy(&bits, &shifted, 8);
    double r = y - k * 6.93147180369123816490e-01;
    r -= k * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = r + r * r * p;
    double scale;
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, 8);
    return scale * p + (scale - 1);
}

#endif
