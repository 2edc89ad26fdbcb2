// What fuzz_kernels.cpp makes its cases of: random choices, arrays of an exact size, and the checks of results.
#pragma once

#include "common.h"
#include "thread_pool.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

namespace quire {

inline std::mt19937_64 engine;

inline std::int64_t between(std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(engine);
}
inline bool maybe() { return between(0, 1) == 1; }
template <class T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[between(0, static_cast<std::int64_t>(values.size()) - 1)];
}
// Small numbers mostly, and large ones sometimes.
inline std::int64_t size_up_to(std::int64_t largest) {
  return between(1, one_of<std::int64_t>({std::min<std::int64_t>(largest, 9), std::min<std::int64_t>(largest, 70), largest}));
}
inline DType any_type() { return maybe() ? DType::float32 : DType::bfloat16; }
inline const char* name(DType type) { return type == DType::float32 ? "f32" : "bf16"; }

inline void fail(const char* what) {
  std::fprintf(stderr, "FAILED: %s\n", what);
  std::abort();
}

// Memory of an exact size. Half of it ends where a page ends that is followed by one that nobody may touch:
// the sanitizer does not see what masked vector instructions read, but the processor does.
class Bytes {
 public:
  explicit Bytes(std::size_t size) : size_(size) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    if (maybe()) {
      data_ = static_cast<char*>(std::malloc(size));
    } else {
      mapped_ = (size + page - 1) / page * page + page;
      void* pages = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (pages == MAP_FAILED) fail("no memory");
      mapping_ = static_cast<char*>(pages);
      if (mprotect(mapping_ + mapped_ - page, page, PROT_NONE) != 0) fail("no guard page");
      data_ = mapping_ + mapped_ - page - size;
    }
    if (size > 0) std::memset(data_, 0xff, size);
  }
  ~Bytes() { mapping_ ? static_cast<void>(munmap(mapping_, mapped_)) : std::free(data_); }
  Bytes(Bytes&& other) noexcept { swap(other); }
  Bytes& operator=(Bytes&& other) noexcept {
    swap(other);
    return *this;
  }
  char* get() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t size() const { return size_; }
  bool equals(const Bytes& other) const {
    return size_ == other.size_ && (size_ == 0 || std::memcmp(data_, other.data_, size_) == 0);
  }

 private:
  void swap(Bytes& other) {
    std::swap(data_, other.data_);
    std::swap(mapping_, other.mapping_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
  }

  char *data_ = nullptr, *mapping_ = nullptr;
  std::size_t size_ = 0, mapped_ = 0;
};

inline std::size_t bytes_of(DType type, std::int64_t count) { return size_of(type) * static_cast<std::size_t>(count); }

inline void set(Bytes& bytes, DType type, std::int64_t i, float value) {
  if (type == DType::float32) {
    bytes.as<float>()[i] = value;
  } else {
    bytes.as<Bf16>()[i] = to_bf16(value);
  }
}

inline Bytes floats(DType type, std::int64_t count) {
  std::normal_distribution<float> normal;
  Bytes result(bytes_of(type, count));
  for (std::int64_t i = 0; i < count; ++i) set(result, type, i, normal(engine));
  return result;
}

template <class T>
inline Bytes integers(const std::vector<T>& values) {
  Bytes result(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(result.get(), values.data(), result.size());
  return result;
}

inline void check_written(const Bytes& result, DType type, const char* what) {
  const std::int64_t count = static_cast<std::int64_t>(result.size() / size_of(type));
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = type == DType::float32 ? result.as<float>()[i] : to_scalar(result.as<Bf16>()[i]);
    if (std::isnan(value)) fail(what);
  }
}

// Rows within a larger matrix: they start anywhere, and nothing follows the last one.
struct Matrix {
  std::int64_t offset, stride;
  Bytes bytes;
  DType type;

  Matrix(DType t, std::int64_t rows, std::int64_t columns, bool contiguous = false)
      : offset(contiguous ? 0 : between(0, 3)), stride(columns + (contiguous ? 0 : one_of<std::int64_t>({0, 1, 5, 40}))),
        bytes(floats(t, offset + (rows - 1) * stride + columns)), type(t) {}
  char* get() const { return bytes.get() + bytes_of(type, offset); }
};

// Runs an op that fills `results` on one thread and on `threads`, and compares.
inline void run(int threads, std::vector<std::pair<Bytes*, DType>> results, const std::function<void()>& op) {
  std::vector<Bytes> kept;
  for (const int count : {1, threads}) {
    set_num_threads(count);
    for (const auto& [bytes, type] : results) std::memset(bytes->get(), 0xff, bytes->size());
    op();
    for (std::size_t i = 0; i < results.size(); ++i) {
      const Bytes& bytes = *results[i].first;
      check_written(bytes, results[i].second, "a value of the result is not written, or NaN");
      if (kept.size() < results.size()) {
        kept.emplace_back(bytes.size());
        if (bytes.size() > 0) std::memcpy(kept.back().get(), bytes.get(), bytes.size());
      } else if (!kept[i].equals(bytes)) {
        fail("the result depends on the number of threads");
      }
    }
  }
}

}  // namespace quire
