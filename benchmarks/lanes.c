/* Lorenz in many lanes by Tsit5, written by hand: what lanes.py is compared with.

   Error norm, PI controller, first step (Hairer, Norsett, Wanner, II.4) and the rounding of step sizes are those of
   odejax with its defaults, so that both take the same steps. WIDTH lanes go side by side, each with steps of its
   own; one that has ended waits for the others. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef WIDTH
#define WIDTH 1
#endif

#define SIGMA 10.0
#define BETA (8.0 / 3.0)

#define SAFETY 0.9
#define MIN_FACTOR 0.2
#define MAX_FACTOR 10.0
#define P 0.1f
#define I 0.9f
#define ORDER 5 /* of the error estimate, plus one */
#define LOG_SMALLEST_MEMORY -9.21034037f /* log of 1e-4 */
#define LAST_STEP_STRETCH 1.01
#define MAX_STEPS 100000

typedef double real __attribute__((vector_size(8 * WIDTH)));
typedef long long mask __attribute__((vector_size(8 * WIDTH)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* Tsitouras (2011): row s leads to the slope s + 1; the last one is b. */
static const double A[6][6] = {
    {0.161},
    {-0.0084806554923569885444, 0.33548065549235698854},
    {2.8971530571054934321, -6.3594484899750748431, 4.3622954328695814110},
    {5.3258648284392566044, -11.748883564062827877, 7.4955393428898362083, -0.092495066361755249257},
    {5.8614554429464200287, -12.920969317847109292, 8.1593678985761586432, -0.071584973281400997225,
     -0.028269050394068382909},
    {0.096460766818065229518, 0.01, 0.47988965041449957478, 1.3790085741037418932, -3.2900695154360806799,
     2.3247105240997739824},
};
static const double E[7] = {
    0.0017800110522257714434, 0.00081643445965674690322, -0.0078808780102619960103, 0.14471100717326290754,
    -0.58235716545255522502, 0.45808210592918694666, -1.0 / 66.0,
};

INLINE real pick(mask m, real a, real b) { return (real)((m & (mask)a) | (~m & (mask)b)); }
INLINE real larger(real a, real b) { return pick(a > b, a, b); }
INLINE real smaller(real a, real b) { return pick(a < b, a, b); }
INLINE real absolute(real x) { return larger(x, -x); }

INLINE void field(real r, const real y[3], real k[3])
{
    k[0] = SIGMA * (y[1] - y[0]);
    k[1] = y[0] * (r - y[2]) - y[1];
    k[2] = y[0] * y[1] - BETA * y[2];
}

/* sum of weights[j] * k[j][i] over the first n slopes */
INLINE real weighted(int n, const double weights[], real k[7][3], int i)
{
    real sum = weights[0] * k[0][i];
    UNROLL
    for (int j = 1; j < n; j++) sum += weights[j] * k[j][i];
    return sum;
}

/* y1 and the slopes k[1] .. k[6] of a step of size h, k[0] being given */
INLINE void step(real r, const real y[3], real h, real k[7][3], real y1[3])
{
    UNROLL
    for (int s = 0; s < 6; s++) {
        UNROLL
        for (int i = 0; i < 3; i++) y1[i] = y[i] + h * weighted(s + 1, A[s], k, i);
        field(r, y1, k[s + 1]);
    }
}

INLINE real squared_error(double tol, const real y[3], const real y1[3], real h, real k[7][3])
{
    real sum = {0};
    UNROLL
    for (int i = 0; i < 3; i++) {
        real error = h * weighted(7, E, k, i) / (tol + tol * larger(absolute(y[i]), absolute(y1[i])));
        sum += error * error;
    }
    return sum / 3;
}

/* the next size of one lane */
INLINE double next_size(double squared, double h, float *memory, long long *was_rejected)
{
    float log_error = 0.5f * logf((float)(squared < 1e-30 ? 1e-30 : squared > 1e30 ? 1e30 : squared));
    int is_accepted = squared <= 1.0;
    float power = is_accepted ? -((P + I) / ORDER) * log_error + (P / ORDER) * *memory : -log_error / ORDER;
    double largest = is_accepted && !*was_rejected ? MAX_FACTOR : 1.0;
    double factor = SAFETY * expf(power);
    factor = factor < MIN_FACTOR ? MIN_FACTOR : factor > largest ? largest : factor;
    if (is_accepted) *memory = log_error > LOG_SMALLEST_MEMORY ? log_error : LOG_SMALLEST_MEMORY;
    *was_rejected = !is_accepted;
    return factor * h;
}

/* a step size in the upper half of a float, which has 8 significant bits */
INLINE double rounded(double h, double unit)
{
    float x = (float)(h / unit);
    uint32_t bits;
    memcpy(&bits, &x, sizeof x);
    bits = (bits + 0x8000u) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x * unit;
}

INLINE real norm(const real x[3], const real scale[3])
{
    real sum = {0}, root;
    for (int i = 0; i < 3; i++) sum += x[i] / scale[i] * (x[i] / scale[i]);
    for (int l = 0; l < WIDTH; l++) root[l] = sqrt(sum[l] / 3);
    return root;
}

INLINE real first_size(real r, const real y[3], const real k[3], double length, double tol)
{
    real scale[3], moved[3], slope[3], h;
    for (int i = 0; i < 3; i++) scale[i] = tol + tol * absolute(y[i]);
    real d0 = norm(y, scale), d1 = norm(k, scale);
    real h0 = pick((d0 > 1e-5) & (d1 > 1e-5), 0.01 * d0 / d1, (real){0} + 1e-6 * length);
    h0 = smaller(h0, (real){0} + length);
    for (int i = 0; i < 3; i++) moved[i] = y[i] + h0 * k[i];
    field(r, moved, slope);
    for (int i = 0; i < 3; i++) slope[i] -= k[i];
    real steepest = larger(d1, norm(slope, scale) / h0);
    for (int l = 0; l < WIDTH; l++) {
        double size = fmin(100 * h0[l], pow(0.01 / steepest[l], 1.0 / ORDER));
        h[l] = fmin(size, length);
    }
    return h;
}

/* y (in place) at t1 in the lanes of one vector; the attempted steps of the first n_lanes of them */
static long long integrate(int n_lanes, real r, real y[3], double t1, double tol)
{
    real k[7][3], y1[3], t = {0}, h;
    float memory[WIDTH] = {0};
    long long was_rejected[WIDTH] = {0}, n_steps = 0;
    int is_running = 1;
    field(r, y, k[0]);
    h = first_size(r, y, k[0], t1, tol);
    for (int n = 0; is_running && n < MAX_STEPS; n++) {
        mask is_last = t + LAST_STEP_STRETCH * h >= t1;
        real t_new = t;
        for (int l = 0; l < WIDTH; l++) t_new[l] = is_last[l] ? t1 : t[l] + rounded(h[l], t1);
        real size = t_new - t; /* 0 in a lane that has ended: nothing changes there */
        step(r, y, size, k, y1);
        real squared = squared_error(tol, y, y1, size, k);
        mask is_accepted = squared <= 1.0;
        is_running = 0;
        for (int l = 0; l < WIDTH; l++) {
            n_steps += l < n_lanes && t[l] < t1;
            h[l] = next_size(squared[l], size[l], &memory[l], &was_rejected[l]);
            is_running |= !is_accepted[l] || !is_last[l];
        }
        t = pick(is_accepted, t_new, t);
        for (int i = 0; i < 3; i++) {
            y[i] = pick(is_accepted, y1[i], y[i]);
            k[0][i] = pick(is_accepted, k[6][i], k[0][i]);
        }
    }
    return n_steps;
}

/* y1[n][3] from y0[n][3] and r[n] over 0 .. t1; the attempted steps of all lanes */
long long solve(long long n, const double *y0, const double *r, double t1, double tol, double *y1)
{
    long long n_steps = 0;
    for (long long first = 0; first < n; first += WIDTH) {
        int n_lanes = n - first < WIDTH ? n - first : WIDTH;
        real y[3], rs;
        for (int l = 0; l < WIDTH; l++) {
            long long lane = first + (l < n_lanes ? l : n_lanes - 1); /* the last one fills the vector */
            rs[l] = r[lane];
            for (int i = 0; i < 3; i++) y[i][l] = y0[3 * lane + i];
        }
        n_steps += integrate(n_lanes, rs, y, t1, tol);
        for (int l = 0; l < n_lanes; l++)
            for (int i = 0; i < 3; i++) y1[3 * (first + l) + i] = y[i][l];
    }
    return n_steps;
}
