// What batched decoding needs besides matrix products, for a CPU with AVX-512 BF16. g++ -O3 -march=native
// -ffast-math -shared -fPIC dec.cpp -o dec.so
#include <algorithm>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <vector>
typedef uint16_t u16;
typedef uint32_t u32;
static inline __m512 ld(const u16 *p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline void st(u16 *p, __m512 v) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v));
}
static inline float f1(u16 v) {
    u32 u = (u32)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline u16 b1(float f) {
    u32 u;
    memcpy(&u, &f, 4);
    return (u16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static inline __m512 ex(__m512 x) {
    x = _mm512_max_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _mm512_set1_ps(-126.f));
    __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n), y = _mm512_set1_ps(1.3333558e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.4022651e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.9314718e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(y, n);
}
extern "C" {
void rms(const u16 *x, const u16 *w, u16 *o, int B, int D, float eps) {
    for (int b = 0; b < B; b++, x += D, o += D) {
        __m512 s = _mm512_setzero_ps();
        for (int j = 0; j < D; j += 16) {
            __m512 v = ld(x + j);
            s = _mm512_fmadd_ps(v, v, s);
        }
        __m512 r = _mm512_set1_ps(1.f / sqrtf(_mm512_reduce_add_ps(s) / D + eps));
        for (int j = 0; j < D; j += 16)
            st(o + j, _mm512_mul_ps(_mm512_mul_ps(ld(x + j), r), ld(w + j)));
    }
}
void silu(const u16 *g, u16 *o, int B, int F) {
    for (int b = 0; b < B; b++, g += 2 * F, o += F)
        for (int j = 0; j < F; j += 16) {
            __m512 x = ld(g + j), a = _mm512_abs_ps(x), e = ex(_mm512_sub_ps(_mm512_setzero_ps(), a)),
                   one = _mm512_set1_ps(1.f), r = _mm512_div_ps(one, _mm512_add_ps(one, e));
            r = _mm512_mask_mul_ps(r, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), r, e);
            st(o + j, _mm512_mul_ps(_mm512_mul_ps(x, r), ld(g + F + j)));
        }
}
// one new position n: rotates q and k, appends k and v, attends. 3 query heads per kv head, 64 dims. K:
// [B*KV][L/16][32][16][2], V: [B*KV][L/2][64][2]
void att(const u16 *qkv, u16 *Kc, u16 *Vc, const float *cs, const float *sn, u16 *o, int B, int KV, int n,
         int L) {
    const int G = 3, H = KV * G, hd = 64;
    float s[3][1024];
    u32 q32[3][32];
    u16 rot[64];
    for (int b = 0; b < B; b++)
        for (int h = 0; h < KV; h++) {
            const u16 *base = qkv + (int64_t)b * (H + 2 * KV) * hd;
            u16 *K = Kc + ((int64_t)b * KV + h) * L * hd, *V = Vc + ((int64_t)b * KV + h) * L * hd;
            auto ro = [&](const u16 *x) {
                for (int j = 0; j < 32; j++) {
                    float a = f1(x[j]), c = f1(x[j + 32]);
                    rot[j] = b1(a * cs[j] - c * sn[j]);
                    rot[j + 32] = b1(c * cs[j] + a * sn[j]);
                }
            };
            ro(base + (H + h) * hd);
            u16 *kb = K + (int64_t)(n / 16) * 16 * hd + (n % 16) * 2;
            for (int d = 0; d < 32; d++) {
                kb[d * 32] = rot[2 * d];
                kb[d * 32 + 1] = rot[2 * d + 1];
            }
            const u16 *v = base + (H + KV + h) * hd;
            u16 *vb = V + (int64_t)(n / 2) * 2 * hd + (n % 2);
            for (int d = 0; d < hd; d++)
                vb[2 * d] = v[d];
            for (int g = 0; g < G; g++) {
                ro(base + (h * G + g) * hd);
                for (int d = 0; d < 32; d++)
                    q32[g][d] = rot[2 * d] | (u32)rot[2 * d + 1] << 16;
            }
            const int N = n + 1, NB = (N + 15) / 16;
            const __m512 sc = _mm512_set1_ps(0.125f);
            for (int t = 0; t < NB; t++) {
                __m512 a0 = _mm512_setzero_ps(), a1 = a0, a2 = a0;
                const u16 *kp = K + (int64_t)t * 16 * hd;
                for (int d = 0; d < 32; d++) {
                    __m512bh k = (__m512bh)_mm512_loadu_si512(kp + d * 32);
                    a0 = _mm512_dpbf16_ps(a0, k, (__m512bh)_mm512_set1_epi32(q32[0][d]));
                    a1 = _mm512_dpbf16_ps(a1, k, (__m512bh)_mm512_set1_epi32(q32[1][d]));
                    a2 = _mm512_dpbf16_ps(a2, k, (__m512bh)_mm512_set1_epi32(q32[2][d]));
                }
                _mm512_storeu_ps(s[0] + t * 16, _mm512_mul_ps(a0, sc));
                _mm512_storeu_ps(s[1] + t * 16, _mm512_mul_ps(a1, sc));
                _mm512_storeu_ps(s[2] + t * 16, _mm512_mul_ps(a2, sc));
            }
            float inv[3];
            u16 p[3][1024];
            for (int g = 0; g < G; g++) {
                for (int t = N; t < NB * 16; t++)
                    s[g][t] = -1e30f;
                __m512 m = _mm512_set1_ps(-1e30f);
                for (int t = 0; t < NB; t++)
                    m = _mm512_max_ps(m, _mm512_loadu_ps(s[g] + t * 16));
                __m512 M = _mm512_set1_ps(_mm512_reduce_max_ps(m)), S = _mm512_setzero_ps();
                for (int t = 0; t < NB; t++) {
                    __m512 x = _mm512_loadu_ps(s[g] + t * 16),
                           e = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-1e29f), _CMP_GT_OQ),
                                                   ex(_mm512_sub_ps(x, M)));
                    st(p[g] + t * 16, e);
                    S = _mm512_add_ps(S, e);
                }
                inv[g] = 1.f / _mm512_reduce_add_ps(S);
            }
            __m512 A[3][4];
            for (int g = 0; g < 3; g++)
                for (int j = 0; j < 4; j++)
                    A[g][j] = _mm512_setzero_ps();
            for (int t = 0; t < (N + 1) / 2; t++) {
                const u16 *vp = V + (int64_t)t * 2 * hd;
                __m512bh x[4];
                for (int j = 0; j < 4; j++)
                    x[j] = (__m512bh)_mm512_loadu_si512(vp + j * 32);
                for (int g = 0; g < 3; g++) {
                    __m512bh w = (__m512bh)_mm512_set1_epi32(*(const u32 *)(p[g] + 2 * t));
                    for (int j = 0; j < 4; j++)
                        A[g][j] = _mm512_dpbf16_ps(A[g][j], x[j], w);
                }
            }
            for (int g = 0; g < G; g++)
                for (int j = 0; j < 4; j++)
                    st(o + (int64_t)b * H * hd + (h * G + g) * hd + j * 16,
                       _mm512_mul_ps(A[g][j], _mm512_set1_ps(inv[g])));
        }
}
// exact top K of each row of bf16 logits, descending, with log-probabilities
void top(const u16 *z, int N, int V, int K, int64_t *ids, float *lp) {
    std::vector<float> bm(V / 128), bs;
    std::vector<std::pair<float, int>> c;
    for (int i = 0; i < N; i++, z += V) {
        for (int b = 0; b < V / 128; b++) {
            __m512 m = ld(z + b * 128);
            for (int j = 16; j < 128; j += 16)
                m = _mm512_max_ps(m, ld(z + b * 128 + j));
            bm[b] = _mm512_reduce_max_ps(m);
        }
        bs = bm;
        std::nth_element(bs.begin(), bs.begin() + K - 1, bs.end(), std::greater<float>());
        float th = bs[K - 1], mx = *std::max_element(bm.begin(), bm.end());
        __m512 M = _mm512_set1_ps(mx), S = _mm512_setzero_ps();
        for (int j = 0; j < V; j += 16)
            S = _mm512_add_ps(S, ex(_mm512_sub_ps(ld(z + j), M)));
        float lse = mx + logf(_mm512_reduce_add_ps(S));
        c.clear();
        for (int b = 0; b < V / 128; b++)
            if (bm[b] >= th)
                for (int j = b * 128; j < b * 128 + 128; j++) {
                    float f = f1(z[j]);
                    if (f >= th)
                        c.push_back({f, j});
                }
        std::partial_sort(c.begin(), c.begin() + K, c.end(), [](auto &a, auto &b) {
            return a.first > b.first || (a.first == b.first && a.second < b.second);
        });
        for (int j = 0; j < K; j++) {
            ids[(int64_t)i * K + j] = c[j].second;
            lp[(int64_t)i * K + j] = c[j].first - lse;
        }
    }
}
}
