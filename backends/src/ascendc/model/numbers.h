//! Element types of the model, and how one becomes another.
//!
//! `half` is IEEE binary16, each operation rounded to nearest even; `bfloat16_t` is the upper half of a binary32 and
//! is only moved and cast, as on the device.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

using half = _Float16;

/// The upper half of a binary32.
struct bfloat16_t {
    uint16_t bits = 0;

    bfloat16_t() = default;
    explicit bfloat16_t(float x) {
        uint32_t u;
        std::memcpy(&u, &x, 4);
        bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
        bits = is_nan ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    }
    explicit operator float() const {
        uint32_t u = uint32_t(bits) << 16;
        float x;
        std::memcpy(&x, &u, 4);
        return x;
    }
};

namespace AscendC {

/// How a cast rounds what its type can't hold.
enum class RoundMode { CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD };

}  // namespace AscendC

namespace aic_model {

using AscendC::RoundMode;

template <class T>
constexpr bool is_float = std::is_same_v<T, float> || std::is_same_v<T, half> || std::is_same_v<T, bfloat16_t>;

template <class T, class... Ts>
constexpr bool is_one_of = (std::is_same_v<T, Ts> || ...);

/// Any element as a double; exact but for 64-bit integers.
template <class T>
double as_double(T x) {
    if constexpr (std::is_same_v<T, bfloat16_t>) {
        return float(x);
    } else {
        return double(x);
    }
}

/// A value rounded to an integer.
inline double to_integer(double x, RoundMode mode) {
    switch (mode) {
        case RoundMode::CAST_FLOOR: return std::floor(x);
        case RoundMode::CAST_CEIL: return std::ceil(x);
        case RoundMode::CAST_ROUND: return std::round(x);
        case RoundMode::CAST_TRUNC: return std::trunc(x);
        default: return std::nearbyint(x);
    }
}

/// A finite value rounded to `digits` significant bits whose least exponent is `least` (that of denormals' last bit).
inline double to_precision(double x, int digits, int least, RoundMode mode) {
    if (x == 0 || !std::isfinite(x)) return x;
    int exponent = std::max(std::ilogb(x) - digits + 1, least);
    double scaled = std::ldexp(x, -exponent);
    double rounded = to_integer(scaled, mode);
    if (mode == RoundMode::CAST_ODD && scaled != std::trunc(scaled)) {
        double down = std::trunc(scaled);
        rounded = std::fmod(down, 2) != 0 ? down : down + std::copysign(1.0, x);
    }
    return std::copysign(std::ldexp(rounded, exponent), x);
}

/// A value in another type: floats round as `mode` says, integers saturate.
template <class T>
T from_double(double x, RoundMode mode) {
    if constexpr (std::is_same_v<T, float>) {
        return float(x);
    } else if constexpr (std::is_same_v<T, half>) {
        return half(to_precision(x, 11, -24, mode));
    } else if constexpr (std::is_same_v<T, bfloat16_t>) {
        return bfloat16_t(float(to_precision(x, 8, -133, mode)));
    } else {
        if (std::isnan(x)) return T(0);
        double whole = to_integer(x, mode);
        constexpr double low = double(std::numeric_limits<T>::min()), high = double(std::numeric_limits<T>::max());
        if (whole <= low) return std::numeric_limits<T>::min();
        return whole >= high ? std::numeric_limits<T>::max() : T(whole);
    }
}

}  // namespace aic_model
