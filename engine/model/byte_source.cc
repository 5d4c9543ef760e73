// SPDX-License-Identifier: Apache-2.0
#include "engine/model/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace farspan {
namespace {

// One pread; keeps a slow disk interruptible and stays below the kernel's limit of a single call.
constexpr size_t kReadSliceBytes = size_t{64} << 20;

absl::Status PastEnd(uint64_t offset, size_t wanted_bytes, uint64_t size_bytes) {
  return absl::DataLossError(absl::StrCat("file ended while it was read: expected ", wanted_bytes, " bytes at offset ",
                                          offset, ", the file has ", size_bytes, " bytes"));
}

class FileSource final : public ByteSource {
 public:
  FileSource(int descriptor, uint64_t size_bytes) : descriptor_(descriptor), size_bytes_(size_bytes) {}
  ~FileSource() override { ::close(descriptor_); }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  uint64_t size_bytes() const override { return size_bytes_; }

  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_bytes_ || out.size() > size_bytes_ - offset) return PastEnd(offset, out.size(), size_bytes_);
    size_t done = 0;
    while (done < out.size()) {
      const size_t slice_bytes = std::min(out.size() - done, kReadSliceBytes);
      const ssize_t got = ::pread(descriptor_, out.data() + done, slice_bytes, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read at offset ", offset + done));
      if (got == 0) return PastEnd(offset + done, out.size() - done, offset + done);
      done += static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

 private:
  const int descriptor_;
  const uint64_t size_bytes_;
};

class ViewSource final : public ByteSource {
 public:
  explicit ViewSource(std::span<const std::byte> bytes) : bytes_(bytes) {}

  uint64_t size_bytes() const override { return bytes_.size(); }

  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
      return PastEnd(offset, out.size(), bytes_.size());
    }
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return absl::OkStatus();
  }

 private:
  const std::span<const std::byte> bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer before fstat can refuse it.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat facts {};
  const int stat_errno = ::fstat(descriptor, &facts) == 0 ? 0 : errno;
  if (stat_errno != 0 || !S_ISREG(facts.st_mode)) {
    ::close(descriptor);
    if (stat_errno != 0) return absl::ErrnoToStatus(stat_errno, absl::StrCat("cannot stat ", path));
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  }
  return std::make_unique<FileSource>(descriptor, static_cast<uint64_t>(facts.st_size));
}

std::unique_ptr<ByteSource> ViewByteSource(std::span<const std::byte> bytes) {
  return std::make_unique<ViewSource>(bytes);
}

}  // namespace farspan
