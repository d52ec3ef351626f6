/* Writes down, in order, everything that a process does to the files of one folder that a power cut could undo.
 *
 * Preloaded; POWER_FOLDER names the folder, POWER_LOG the file that the log goes to. A record is a line of text
 *     verb offset length path\n
 * followed by `length` bytes of data. Verbs: write, truncate, sync, create, unlink, rename and link (the new path is the data).
 * With POWER_ROOM=N in the environment, writes that would make the folder's files grow by more than N bytes altogether
 * fail with ENOSPC, as on a full disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_handle = -2;
static const char *folder;
static long long room = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int ready(void) {
    if (log_handle == -2) {
        const char *path = getenv("POWER_LOG"), *left = getenv("POWER_ROOM");
        folder = getenv("POWER_FOLDER");
        log_handle = path && folder ? REAL(open64)(path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600) : -1;
        if (left) room = atoll(left);
    }
    return folder != NULL;
}

static int ours(const char *path) {
    return ready() && strncmp(path, folder, strlen(folder)) == 0 && !strstr(path, "-shm");
}

static int path_of(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return ours(path);
}

static void note(const char *verb, long long offset, const void *data, size_t length, const char *path) {
    char head[PATH_MAX + 80];
    if (log_handle < 0) return;
    int size = snprintf(head, sizeof head, "%s %lld %zu %s\n", verb, offset, length, path);
    pthread_mutex_lock(&lock);
    if (REAL(write)(log_handle, head, size) != size || REAL(write)(log_handle, data, length) != (ssize_t)length) abort();
    pthread_mutex_unlock(&lock);
}

static int is_full(int handle, long long end) {
    struct stat64 state;
    if (room < 0 || fstat64(handle, &state) != 0 || end <= state.st_size) return 0;
    if (end - state.st_size > room) return 1;
    room -= end - state.st_size;
    return 0;
}

static ssize_t put(int handle, const void *data, size_t length, long long offset, int positioned) {
    char path[PATH_MAX];
    if (!path_of(handle, path))
        return positioned ? REAL(pwrite64)(handle, data, length, offset) : REAL(write)(handle, data, length);
    if (!positioned)
        offset = fcntl(handle, F_GETFL) & O_APPEND ? lseek64(handle, 0, SEEK_END) : lseek64(handle, 0, SEEK_CUR);
    if (is_full(handle, offset + (long long)length)) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t done = positioned ? REAL(pwrite64)(handle, data, length, offset) : REAL(write)(handle, data, length);
    if (done > 0) note("write", offset, data, done, path);
    return done;
}

ssize_t write(int handle, const void *data, size_t length) { return put(handle, data, length, 0, 0); }
ssize_t pwrite(int handle, const void *data, size_t length, off_t offset) { return put(handle, data, length, offset, 1); }
ssize_t pwrite64(int handle, const void *data, size_t length, off64_t offset) {
    return put(handle, data, length, offset, 1);
}

#define TRUNCATES(name, kind)                                                   \
    int name(int handle, kind length) {                                         \
        char path[PATH_MAX];                                                    \
        int done = REAL(name)(handle, length);                                  \
        if (done == 0 && path_of(handle, path)) note("truncate", length, "", 0, path); \
        return done;                                                            \
    }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

#define SYNCS(name)                                                             \
    int name(int handle) {                                                      \
        char path[PATH_MAX];                                                    \
        int done = REAL(name)(handle);                                          \
        if (done == 0 && path_of(handle, path)) note("sync", 0, "", 0, path);   \
        return done;                                                            \
    }
SYNCS(fsync)
SYNCS(fdatasync)

#define OPENS(name)                                                             \
    int name(const char *path, int flags, ...) {                                \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        int is_new = flags & O_CREAT && ours(path) && access(path, F_OK) != 0;  \
        int handle = REAL(name)(path, flags, mode);                             \
        if (handle >= 0 && is_new) note("create", 0, "", 0, path);              \
        return handle;                                                          \
    }
OPENS(open)
OPENS(open64)

int unlink(const char *path) {
    int done = REAL(unlink)(path);
    if (done == 0 && ours(path)) note("unlink", 0, "", 0, path);
    return done;
}

int rename(const char *old, const char *new) {
    int done = REAL(rename)(old, new);
    if (done == 0 && ours(old)) note("rename", 0, new, strlen(new), old);
    return done;
}

int link(const char *old, const char *new) {
    int done = REAL(link)(old, new);
    if (done == 0 && ours(old)) note("link", 0, new, strlen(new), old);
    return done;
}
