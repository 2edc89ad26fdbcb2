// QUIRE_UNROLL(n) before a loop of a constant number of steps, at most n, unrolls it: arrays of vectors that
// the loop indexes then live in registers.
#pragma once

#define QUIRE_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define QUIRE_UNROLL(n) QUIRE_PRAGMA(clang loop unroll(full))
#else
#define QUIRE_UNROLL(n) QUIRE_PRAGMA(GCC unroll n)
#endif
