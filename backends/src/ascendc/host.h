// Scalar functions of steps on the host, as the compiler's interpreter has them: floats are computed in double and
// rounded once, integers wrap, 16-bit floats are converted and never computed with.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

namespace {

inline int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }
inline int64_t FloorMod(int64_t a, int64_t b) { return a - FloorDiv(a, b) * b; }
inline int64_t Lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Greater(int64_t a, int64_t b) { return a > b ? a : b; }

struct half_t { uint16_t bits; };
struct bfloat_t { uint16_t bits; };

inline uint32_t bits_of(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline float float_of(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }

// The nearer float where that is exact, else its neighbour with an odd last bit: rounding it again is right then.
inline float to_odd(double x) {
    float near = float(x);
    if (double(near) == x || x != x) return near;
    uint32_t b = bits_of(near);
    return float_of((std::fabs(double(near)) > std::fabs(x) ? b - 1 : b) | 1);
}

inline float widen(half_t h) {
    uint32_t sign = uint32_t(h.bits & 0x8000) << 16, e = h.bits >> 10 & 31, m = h.bits & 1023;
    if (e == 31) return float_of(sign | 0x7f800000 | m << 13);
    if (e) return float_of(sign | (e + 112) << 23 | m << 13);
    float x = std::ldexp(float(m), -24);
    return sign ? -x : x;
}
inline float widen(bfloat_t b) { return float_of(uint32_t(b.bits) << 16); }

inline half_t to_half(float x) {
    uint32_t b = bits_of(x), sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
    if (a > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (a >= 0x47800000) return {uint16_t(sign | 0x7c00)};
    if (a < 0x38800000) {
        // A multiple of 2^-24.
        return {uint16_t(sign | uint32_t(std::nearbyint(std::ldexp(double(float_of(a)), 24))))};
    }
    uint32_t r = a - 0x38000000;
    return {uint16_t(sign | (r + 0xfff + (r >> 13 & 1)) >> 13)};
}
inline bfloat_t to_bfloat(float x) {
    uint32_t b = bits_of(x);
    if (x != x) return {uint16_t(b >> 16 | 64)};
    return {uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}

// Floats become integers by truncation, with saturation at the bounds of the 64-bit type.
inline int64_t whole(double x) {
    if (x != x) return 0;
    if (x >= 0x1p63) return std::numeric_limits<int64_t>::max();
    return x < -0x1p63 ? std::numeric_limits<int64_t>::min() : int64_t(x);
}
inline uint64_t natural(double x) {
    if (x < 0 || x != x) return uint64_t(whole(x));
    return x >= 0x1p64 ? std::numeric_limits<uint64_t>::max() : uint64_t(x);
}

template <class To, class From> To cast(From x) {
    if constexpr (std::is_same_v<To, From>) return x;
    else if constexpr (std::is_same_v<From, half_t> || std::is_same_v<From, bfloat_t>) return cast<To>(widen(x));
    else if constexpr (std::is_same_v<To, half_t>) return to_half(to_odd(double(x)));
    else if constexpr (std::is_same_v<To, bfloat_t>) return to_bfloat(to_odd(double(x)));
    else if constexpr (std::is_same_v<To, bool>) return x != 0;
    else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>)
        return std::is_signed_v<To> ? To(whole(x)) : To(natural(x));
    else return To(x);
}

template <class T> using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;

#define BOTH(name, of_floats, of_wholes)                                   \
    template <class T> T name(T x, T y) {                                  \
        if constexpr (std::is_floating_point_v<T>) {                       \
            const double a = x, b = y;                                     \
            return T(of_floats);                                           \
        } else {                                                           \
            const Wide<T> a = Wide<T>(x), b = Wide<T>(y);                  \
            return T(of_wholes);                                           \
        }                                                                  \
    }
#define ONE(name, value) \
    template <class T> T name(T x) { const double a = x; return T(value); }

template <class W> W power(W a, W b) {
    if constexpr (std::is_signed_v<W>) {
        if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    }
    uint64_t r = 1, base = uint64_t(a);
    for (uint64_t e = uint64_t(b); e; e >>= 1, base *= base) if (e & 1) r *= base;
    return W(r);
}
inline double modulo(double a, double b) {
    double r = std::fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
template <class W> W quotient(W a, W b) { return b == 0 ? 0 : b == W(-1) && W(-1) < W(0) ? W(0 - uint64_t(a)) : W(a / b); }
template <class W> W remainder_of(W a, W b) { return b == 0 || (b == W(-1) && W(-1) < W(0)) ? 0 : W(a % b); }
template <class W> W floored(W a, W b) {
    W r = remainder_of(a, b);
    return r != 0 && (r < W(0)) != (b < W(0)) ? W(r + b) : r;
}

BOTH(fn_add, a + b, uint64_t(a) + uint64_t(b))
BOTH(fn_sub, a - b, uint64_t(a) - uint64_t(b))
BOTH(fn_mul, a * b, uint64_t(a) * uint64_t(b))
BOTH(fn_div, a / b, quotient(a, b))
BOTH(fn_mod, modulo(a, b), floored(a, b))
BOTH(fn_rem, std::fmod(a, b), remainder_of(a, b))
BOTH(fn_pow, std::pow(a, b), power(a, b))
BOTH(fn_min, a != a || b != b ? std::nan("") : std::fmin(a, b), a < b ? a : b)
BOTH(fn_max, a != a || b != b ? std::nan("") : std::fmax(a, b), a > b ? a : b)
template <class T> T fn_fma(T a, T b, T c) {
    if constexpr (std::is_floating_point_v<T>) return std::fma(a, b, c);
    else return fn_add(fn_mul(a, b), c);
}
template <class T> T fn_neg(T a) { if constexpr (std::is_floating_point_v<T>) return -a; else return T(0 - uint64_t(a)); }
template <class T> T fn_abs(T a) {
    if constexpr (std::is_floating_point_v<T>) return std::fabs(a);
    else return a < T(0) ? fn_neg(a) : a;
}
template <class T> T fn_sign(T a) { return a != a || a == T(0) ? a : a < T(0) ? T(-1) : T(1); }
ONE(fn_sqrt, std::sqrt(a))
ONE(fn_exp, std::exp(a))
ONE(fn_log, std::log(a))
ONE(fn_sin, std::sin(a))
ONE(fn_cos, std::cos(a))
ONE(fn_tan, std::tan(a))
ONE(fn_asin, std::asin(a))
ONE(fn_acos, std::acos(a))
ONE(fn_atan, std::atan(a))
ONE(fn_sinh, std::sinh(a))
ONE(fn_cosh, std::cosh(a))
ONE(fn_tanh, std::tanh(a))
ONE(fn_asinh, std::asinh(a))
ONE(fn_acosh, std::acosh(a))
ONE(fn_atanh, std::atanh(a))
ONE(fn_erf, std::erf(a))
ONE(fn_sigmoid, 1 / (1 + std::exp(-a)))
ONE(fn_softplus, std::fmax(a, 0) + std::log1p(std::exp(-std::fabs(a))))
ONE(fn_floor, std::floor(a))
ONE(fn_ceil, std::ceil(a))
ONE(fn_round, std::nearbyint(a))
ONE(fn_trunc, std::trunc(a))
template <class T> T fn_bitand(T a, T b) { return T(a & b); }
template <class T> T fn_bitor(T a, T b) { return T(a | b); }
template <class T> T fn_bitxor(T a, T b) { return T(a ^ b); }
template <class T> T fn_bitnot(T a) { return T(~a); }
template <class T> T fn_shl(T a, T b) { return b >= T(0) && uint64_t(b) < 8 * sizeof(T) ? T(uint64_t(a) << b) : T(0); }
template <class T> T fn_shr(T a, T b) {
    const uint64_t last = 8 * sizeof(T) - 1;
    if (std::is_signed_v<T>) return T(a >> (uint64_t(b) < last ? uint64_t(b) : last));
    return uint64_t(b) <= last ? T(a >> b) : T(0);
}
inline bool fn_and(bool a, bool b) { return a && b; }
inline bool fn_or(bool a, bool b) { return a || b; }
inline bool fn_xor(bool a, bool b) { return a != b; }
inline bool fn_not(bool a) { return !a; }
template <class T> bool fn_eq(T a, T b) { return a == b; }
template <class T> bool fn_ne(T a, T b) { return a != b; }
template <class T> bool fn_lt(T a, T b) { return a < b; }
template <class T> bool fn_le(T a, T b) { return a <= b; }
template <class T> bool fn_gt(T a, T b) { return a > b; }
template <class T> bool fn_ge(T a, T b) { return a >= b; }
template <class T> bool fn_isnan(T a) { return a != a; }
template <class T> bool fn_isinf(T a) { return std::isinf(a); }

#undef BOTH
#undef ONE

}  // namespace
