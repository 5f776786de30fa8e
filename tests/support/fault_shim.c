/* LD_PRELOAD library for tests: fdatasync and fsync fail with EIO for files under a directory while a trigger file exists.
 *
 * GATEPOST_FAULT_TRIGGER names the trigger file; its contents name the directory. It is looked for at each call, so a test can break and mend the
 * disk of a running server. The Python and the Rust side both call libc, so both are reached. Built by support/faults.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int broken(int fd) {
    const char *trigger = getenv("GATEPOST_FAULT_TRIGGER");
    char directory[4096], link[64], path[4096];
    if (trigger == NULL) return 0;
    int file = open(trigger, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, directory, sizeof directory - 1);
    close(file);
    if (length <= 0) return 0;
    directory[length] = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, directory, strlen(directory)) == 0;
}

static int call(const char *name, int fd) {
    if (broken(fd)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fdatasync(int fd) { return call("fdatasync", fd); }
int fsync(int fd) { return call("fsync", fd); }
