//! What an operator project of the vendor's tools puts around a kernel: the struct of its tiling, defined by macros in
//! a header of the host, and the kernel's copy of it from global memory.
#pragma once
#include <cstring>

#define BEGIN_TILING_DATA_DEF(name) struct name {
#define TILING_DATA_FIELD_DEF(type, name) type name
#define TILING_DATA_FIELD_DEF_ARR(type, size, name) type name[size]
#define TILING_DATA_FIELD_DEF_STRUCT(type, name) type name
#define END_TILING_DATA_DEF }
#define REGISTER_TILING_DATA_CLASS(operator_name, name) using RegisteredTilingData = name;

#ifndef GET_TILING_DATA
#define GET_TILING_DATA(name, pointer)              \
    optiling::RegisteredTilingData name;            \
    std::memcpy(&name, pointer, sizeof name)
#endif

/// The branch of a kernel that its host chose; a driver defines another one.
#ifndef TILING_KEY
#define TILING_KEY 1
#endif
#define TILING_KEY_IS(key) ((key) == TILING_KEY)

/// Checked where kernels are debugged; here the rules of the chip are.
#define ASSERT(condition) ((void)(condition))

#define __ubuf__

namespace AscendC {

/// The part of an array that is the core's, of parts of so many elements.
template <class T>
uint8_t* ParamOffset(uint8_t* array, uint64_t n) {
    return array + GetBlockIdx() * n * sizeof(T);
}

inline void SetSysWorkspace(uint8_t*) {}
inline uint8_t* GetUserWorkspace(uint8_t* workspace) { return workspace; }

}  // namespace AscendC

/// The API's namespace in its first releases.
namespace tik2 = AscendC;
