// What the launcher of an artifact for Ascend NPUs needs of ACL, on the model of the chip: for tests of the launcher on
// any machine. The device's memory is one block of this process; launches are executed when they are made.
#pragma once
#include "kernel_operator.h"
#include "driver.h"

using aclError = int;
using aclrtStream = void*;
constexpr aclError ACL_SUCCESS = 0;
enum aclrtMemMallocPolicy { ACL_MEM_MALLOC_HUGE_FIRST };
enum aclrtMemcpyKind { ACL_MEMCPY_HOST_TO_DEVICE, ACL_MEMCPY_DEVICE_TO_HOST, ACL_MEMCPY_DEVICE_TO_DEVICE };

struct Device : aic_model::Driver {
    aic_model::Memory memory;
    std::vector<uint8_t> bytes;
    int n_violations = 0;

    void launch(const char* type, uint32_t n_blocks, const std::function<void()>& kernel) {
        aic_model::Machine m(settings);
        m.arguments.push_back(&memory);
        memory.forget();
        create(m, type, n_blocks);
        m.run(kernel);
        for (auto& v : m.report.violations()) {
            std::cerr << v.rule << " " << v.place << " " << v.text << std::endl;
            ++n_violations;
        }
    }
};

inline Device& device() {
    static Device d;
    return d;
}

inline aclError aclInit(const char*) { return ACL_SUCCESS; }
inline aclError aclrtSetDevice(int32_t) { return ACL_SUCCESS; }
inline aclError aclrtCreateStream(aclrtStream* stream) { return *stream = &device(), ACL_SUCCESS; }
inline aclError aclrtDestroyStream(aclrtStream) { return ACL_SUCCESS; }
inline aclError aclrtSynchronizeStream(aclrtStream) { return ACL_SUCCESS; }
inline aclError aclrtFree(void*) { return ACL_SUCCESS; }
inline aclError aclrtMalloc(void** memory, size_t bytes, aclrtMemMallocPolicy) {
    Device& d = device();
    d.bytes.assign(bytes, 0xff);
    d.memory.open("device", d.bytes.data(), bytes, true, true);
    return *memory = d.bytes.data(), ACL_SUCCESS;
}
inline aclError aclrtMemcpy(void* to, size_t most, const void* from, size_t bytes, aclrtMemcpyKind) {
    if (bytes > most) return 1;
    std::memcpy(to, from, bytes);
    return ACL_SUCCESS;
}
inline aclError aclrtMemcpyAsync(void* to, size_t most, const void* from, size_t n, aclrtMemcpyKind kind, aclrtStream) {
    return aclrtMemcpy(to, most, from, n, kind);
}
#define ACLRT_LAUNCH_KERNEL(name) aclrtlaunch_##name
