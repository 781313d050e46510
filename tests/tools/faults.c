/* Faults at a counted call: LD_PRELOAD this; tests/torture/faults.py drives it.
 *
 * Counts what a program does to files whose path begins with $FAULT_PATH: those calls of $FAULT_CALLS (",fsync,write,",
 * empty: all of the list below). The count is one for all threads and processes of a program and lives in the file
 * $FAULT_PLAN, beside the first and the last call that is to fail: with the error $FAULT_ERRNO, or by the death of the
 * process (0). Only programs with $FAULT_PROGRAM in their command line are concerned.
 *
 * strace can inject the same, but counts each thread by itself: what the second thread does is then never reached. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct plan { uint64_t count, first, last; };
static struct plan *plan;
static const char *below = "", *calls = "";
static int error_number;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) static void begin(void) {
    char command[4096] = {0};
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, command, sizeof command - 1);
    close(fd);
    if (!memmem(command, length > 0 ? length : 0, setting("FAULT_PROGRAM"), strlen(setting("FAULT_PROGRAM")))) return;
    below = strdup(setting("FAULT_PATH"));
    calls = strdup(setting("FAULT_CALLS"));
    error_number = atoi(setting("FAULT_ERRNO"));
    fd = open(setting("FAULT_PLAN"), O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) plan = found;
}

/* Whether this call is to fail. A path that is relative is one of a folder below, by rmtree or a spawner. */
static int fails(const char *call, int fd, const char *path) {
    if (!plan || (*calls && !strstr(calls, call))) return 0;
    char link[64], target[4096];
    if (!path) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, target, sizeof target - 1);
        if (length < 0) return 0;
        target[length] = 0;
        path = target;
        if (*path != '/') return 0; /* a pipe, a socket, a file in memory */
    }
    if (*path == '/' && strncmp(path, below, strlen(below))) return 0;
    uint64_t number = __atomic_add_fetch(&plan->count, 1, __ATOMIC_SEQ_CST);
    if (number < plan->first || number > plan->last) return 0;
    if (!error_number) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    dprintf(2, "fault at %s%s\n", call + 1, path);
    errno = error_number;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_FD(type, name, ...) if (fails("," #name ",", fd, NULL)) return -1; return NEXT(name)(__VA_ARGS__);
#define ON_PATH(name, ...) if (fails("," #name ",", -1, path)) return -1; return NEXT(name)(__VA_ARGS__);

ssize_t write(int fd, const void *data, size_t size) { ON_FD(ssize_t, write, fd, data, size) }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { ON_FD(ssize_t, pwrite, fd, data, size, at) }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { ON_FD(ssize_t, pwrite64, fd, data, size, at) }
int fsync(int fd) { ON_FD(int, fsync, fd) }
int fdatasync(int fd) { ON_FD(int, fdatasync, fd) }
int ftruncate(int fd, off_t size) { ON_FD(int, ftruncate, fd, size) }
int ftruncate64(int fd, off64_t size) { ON_FD(int, ftruncate64, fd, size) }
int posix_fallocate(int fd, off_t from, off_t size) {
    return fails(",posix_fallocate,", fd, NULL) ? errno : NEXT(posix_fallocate)(fd, from, size);
}
int posix_fallocate64(int fd, off64_t from, off64_t size) {
    return fails(",posix_fallocate,", fd, NULL) ? errno : NEXT(posix_fallocate64)(fd, from, size);
}
int rename(const char *path, const char *to) { ON_PATH(rename, path, to) }
int unlink(const char *path) { ON_PATH(unlink, path) }
int unlinkat(int fd, const char *path, int flags) { ON_PATH(unlinkat, fd, path, flags) }
int mkdir(const char *path, mode_t mode) { ON_PATH(mkdir, path, mode) }
int rmdir(const char *path) { ON_PATH(rmdir, path) }
int symlink(const char *target, const char *path) { ON_PATH(symlink, target, path) }
