// Moves the wall clock of the programs that load it with LD_PRELOAD, by the seconds at the begin of the file
// that CHAOS_CLOCK names. The file may change while they run. Clocks of durations are left alone.

#include <cstdint>
#include <cstdlib>
#include <ctime>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace {

const volatile std::int64_t* offset_seconds = nullptr;

__attribute__((constructor)) void map_offset() {
  const char* path = std::getenv("CHAOS_CLOCK");
  const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void* mapped = mmap(nullptr, sizeof(std::int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) offset_seconds = static_cast<const volatile std::int64_t*>(mapped);
  close(file);
}

}  // namespace

extern "C" int clock_gettime(clockid_t clock, struct timespec* now) noexcept {
  const long status = syscall(SYS_clock_gettime, clock, now);
  const bool is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
  if (status == 0 && is_wall && offset_seconds != nullptr) now->tv_sec += *offset_seconds;
  return static_cast<int>(status);
}

extern "C" int gettimeofday(struct timeval* now, void*) noexcept {
  struct timespec exact;
  if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

extern "C" time_t time(time_t* seconds) noexcept {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  if (seconds != nullptr) *seconds = now.tv_sec;
  return now.tv_sec;
}
