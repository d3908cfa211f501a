// The SSE2 intrinsics of BoringSSL's AES and GHASH that need no AES instructions, in WebAssembly's vectors of 128 bits.
//
// Does: let them compute eight blocks at once, where a 32-bit target has two. They stay free of branches and look-ups
// that depend on secrets.
// Does not: hold any other intrinsic of Intel's emmintrin.h, whose names and meanings these are.

#pragma once

#include <wasm_simd128.h>

typedef v128_t __m128i;

#define _mm_and_si128 wasm_v128_and
#define _mm_or_si128 wasm_v128_or
#define _mm_xor_si128 wasm_v128_xor
#define _mm_slli_epi32 wasm_i32x4_shl
#define _mm_srli_epi32 wasm_u32x4_shr
#define _mm_setr_epi32 wasm_i32x4_make
#define _mm_set_epi32(d, c, b, a) wasm_i32x4_make(a, b, c, d)
#define _mm_unpacklo_epi64(a, b) wasm_i64x2_shuffle(a, b, 0, 2)

// Sixteen of the 32 bytes of two vectors; with zeros, this shifts a vector by bytes.
#define BYTES_FROM(n, a, b)                                                                                      \
  wasm_i8x16_shuffle(a, b, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, n + 10, n + 11, n + 12, \
                     n + 13, n + 14, n + 15)
#define _mm_slli_si128(a, n) BYTES_FROM(16 - (n), wasm_i64x2_const_splat(0), a)
#define _mm_srli_si128(a, n) BYTES_FROM((n), a, wasm_i64x2_const_splat(0))

// Products of the lower halves, 32 bits each.
static inline __m128i _mm_mul_epu32(__m128i a, __m128i b) {
  const v128_t low = wasm_i64x2_const_splat(0xffffffff);
  return wasm_i64x2_mul(wasm_v128_and(a, low), wasm_v128_and(b, low));
}
