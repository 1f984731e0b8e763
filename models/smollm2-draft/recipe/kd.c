// Softmax, distillation loss and its gradient for one chunk of rows, in place: bf16 logits in, bf16 gradient
// out. A row stays in the L2 cache. gcc -O3 -march=native -ffast-math -shared -fPIC kd.c -o kd.so
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
static inline __m512 ld(const uint16_t *p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline float f1(uint16_t v) {
    union {
        uint32_t u;
        float f;
    } x = {(uint32_t)v << 16};
    return x.f;
}
static inline uint16_t b1(float f) {
    union {
        float f;
        uint32_t u;
    } x = {f};
    return (uint16_t)((x.u + 0x7fff + ((x.u >> 16) & 1)) >> 16);
}
static inline __m512 ex(__m512 x) { // e^x for x <= 0
    x = _mm512_max_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _mm512_set1_ps(-126.f));
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n), y = _mm512_set1_ps(1.3333558e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(y, n);
}
// ids, lp: the target's top K of each row; w: weight of the row; out per row: KL, sum min(p,q), argmax equal,
// q's log-probability of tok
void kd(uint16_t *z, const uint16_t *ids, const _Float16 *lp, const uint16_t *tok, const float *w, float kl,
        float tv, float ce, float *out, int C, int V, int K, int grad) {
    for (int i = 0; i < C; i++) {
        uint16_t *r = z + (int64_t)i * V;
        const uint16_t *id = ids + (int64_t)i * K;
        const _Float16 *l = lp + (int64_t)i * K;
        float *o = out + 4 * i;
        __m512 mv = ld(r);
        for (int j = 16; j < V; j += 16)
            mv = _mm512_max_ps(mv, ld(r + j));
        float m = _mm512_reduce_max_ps(mv);
        __m512 M = _mm512_set1_ps(m), s0 = _mm512_setzero_ps(), s1 = s0;
        for (int j = 0; j < V; j += 32) {
            s0 = _mm512_add_ps(s0, ex(_mm512_sub_ps(ld(r + j), M)));
            s1 = _mm512_add_ps(s1, ex(_mm512_sub_ps(ld(r + j + 16), M)));
        }
        float s = _mm512_reduce_add_ps(_mm512_add_ps(s0, s1)), ls = m + logf(s), p[256], q[256], P = 0, Q = 0,
              k = 0, a = 0;
        float lt = f1(r[tok[i]]) - ls;
        int hit = -1;
        for (int j = 0; j < K; j++) {
            p[j] = expf((float)l[j]);
            float lq = f1(r[id[j]]) - ls;
            q[j] = expf(lq);
            P += p[j];
            Q += q[j];
            k += p[j] * ((float)l[j] - lq);
            a += fminf(p[j], q[j]);
            if (id[j] == tok[i])
                hit = j;
        }
        float R = fmaxf(1 - P, 1e-6f), S = fmaxf(1 - Q, 1e-6f);
        k += R * logf(R / S);
        o[0] = k;
        o[1] = a + fminf(R, S);
        o[2] = f1(r[id[0]]) >= m;
        o[3] = lt;
        if (!grad)
            continue;
        if (w[i] == 0) {
            for (int j = 0; j < V; j += 32)
                _mm512_storeu_si512(r + j, _mm512_setzero_si512());
            continue;
        }
        if (hit >= 0 && ce > 0) {
            for (int j = 0; j < K; j++)
                p[j] *= 1 - ce;
            p[hit] += ce;
            R *= 1 - ce;
        }
        float c = .5f * S;
        for (int j = 0; j < K; j++)
            c += q[j] * (q[j] > p[j] ? .5f : -.5f);
        float f = w[i] * (kl * (1 - R / S) + tv * (.5f - c)) / s;
        __m512 F = _mm512_set1_ps(f);
        for (int j = 0; j < V; j += 32) {
            __m512 x = _mm512_mul_ps(F, ex(_mm512_sub_ps(ld(r + j), M))),
                   y = _mm512_mul_ps(F, ex(_mm512_sub_ps(ld(r + j + 16), M)));
            _mm512_storeu_si512(r + j, (__m512i)_mm512_cvtne2ps_pbh(y, x));
        }
        for (int j = 0; j < K; j++)
            r[id[j]] = b1(w[i] * (kl * (q[j] - p[j]) + tv * q[j] * ((q[j] > p[j] ? .5f : -.5f) - c)));
    }
}
