/* A disk that fails: preloaded into a program, it stands between the program and the C library for every call that
 * changes, or reads, what lies below a folder.
 *
 *   FAILING_DISK_BELOW  the folder, absolute
 *   FAILING_DISK_CALL   the number of the call that fails, from 1; 0: none, they are only counted
 *   FAILING_DISK_HOW    eio, enospc, short (half of what was to be written, or read, is), kill (SIGKILL instead of the call),
 *                       tear (half is written, then SIGKILL)
 *   FAILING_DISK_LASTS  set: all later calls fail, too
 *   FAILING_DISK_READS  set: calls that read are counted, and fail, instead of those that change something
 *   FAILING_DISK_COUNT  a file that gets the number of calls when the program ends
 *   FAILING_DISK_LOG    a file that gets every call that succeeded, in order, and what went to standard output:
 *
 *     w INODE OFFSET LENGTH\n bytes   written           a LENGTH\n bytes   standard output
 *     t INODE LENGTH\n                truncated         s INODE\n          a file or folder was synced
 *     c INODE PATH\n                  file made         r FROM\tTO\n       renamed
 *     m INODE PATH\n                  folder made       u PATH\n           removed
 *
 * Linux with the GNU C library. Calls that go to the kernel directly are not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096
#define LONG 4096

enum how { EIO_ERROR, ENOSPC_ERROR, SHORT_WRITE, KILL, TEAR };

static const char *below;
static size_t below_length;
static long failing, calls;
static enum how how;
static int lasts, reads, log_file = -1;
/* Which open files lie below the folder. */
static char ours[FILES];
/* Calls are told one after the other, in the order in which they are done. */
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    below = getenv("FAILING_DISK_BELOW");
    below_length = below ? strlen(below) : 0;
    const char *text = getenv("FAILING_DISK_CALL");
    failing = text ? atol(text) : 0;
    text = getenv("FAILING_DISK_HOW");
    if (text) {
        const char *names[] = {"eio", "enospc", "short", "kill", "tear"};
        for (int i = 0; i < 5; i++)
            if (!strcmp(text, names[i])) how = (enum how)i;
    }
    lasts = getenv("FAILING_DISK_LASTS") != NULL;
    reads = getenv("FAILING_DISK_READS") != NULL;
    text = getenv("FAILING_DISK_LOG");
    if (text) log_file = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
}

__attribute__((destructor)) static void end(void) {
    const char *path = getenv("FAILING_DISK_COUNT");
    if (!path) return;
    char text[32];
    int n = snprintf(text, sizeof text, "%ld", calls);
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file >= 0) {
        syscall(SYS_write, file, text, (size_t)n);
        syscall(SYS_close, file);
    }
}

static int is_below(const char *path) {
    return below && path && !strncmp(path, below, below_length) && (path[below_length] == '/' || !path[below_length]);
}

/* The path from the root, where one is given from an open folder. */
static const char *absolute(int folder, const char *path, char *place) {
    if (folder == AT_FDCWD || !path || path[0] == '/') return path;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
    long n = syscall(SYS_readlinkat, AT_FDCWD, name, place, LONG);
    if (n < 0) return path;
    snprintf(place + n, LONG, "/%s", path);
    return place;
}

static int is_ours(int file) { return file >= 0 && file < FILES && ours[file]; }

enum call { CHANGE, WRITE, READ };

/* Counts a call. 0: it is to be done; 1: half of it; -1: it fails, and errno says how. */
static int fate(enum call call) {
    if (reads != (call == READ)) return 0;
    calls++;
    if (!failing || !(calls == failing || (lasts && calls > failing))) return 0;
    switch (how) {
    case EIO_ERROR: errno = EIO; return -1;
    case ENOSPC_ERROR: errno = ENOSPC; return -1;
    case SHORT_WRITE: return call != CHANGE;
    case TEAR:
        if (call == WRITE) return 1;
        /* fall through */
    case KILL: kill(getpid(), SIGKILL);
    }
    return 0;
}

static void tell(const void *data, size_t length, const char *form, ...) {
    if (log_file < 0) return;
    char head[8192];
    va_list arguments;
    va_start(arguments, form);
    int n = vsnprintf(head, sizeof head, form, arguments);
    va_end(arguments);
    struct iovec parts[2] = {{head, (size_t)n}, {(void *)data, length}};
    if (syscall(SYS_writev, log_file, parts, 2) != (long)(n + length)) abort();
}

static unsigned long inode(int file) {
    struct stat s;
    return syscall(SYS_fstat, file, &s) ? 0 : (unsigned long)s.st_ino;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    if (!is_below(path)) {
        int file = (int)syscall(SYS_openat, folder, path, flags, mode);
        if (file >= 0 && file < FILES) ours[file] = 0;
        return file;
    }
    pthread_mutex_lock(&one);
    int makes = 0;
    if (flags & O_CREAT) {
        struct stat s;
        makes = syscall(SYS_newfstatat, AT_FDCWD, path, &s, 0) != 0;
    }
    int file = -1;
    if (!((makes || (flags & O_TRUNC)) && fate(CHANGE) < 0)) {
        file = (int)syscall(SYS_openat, folder, path, flags, mode);
        if (file >= 0 && file < FILES) ours[file] = 1;
        if (file >= 0 && makes) tell(NULL, 0, "c %lu %s\n", inode(file), path);
        if (file >= 0 && !makes && (flags & O_TRUNC)) tell(NULL, 0, "t %lu 0\n", inode(file));
    }
    pthread_mutex_unlock(&one);
    return file;
}

#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode = va_arg(more, mode_t);                                                                                   \
        va_end(more);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) {
    char place[2 * LONG];
    MODE(flags)
    return open_at(folder, absolute(folder, path, place), flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    char place[2 * LONG];
    MODE(flags)
    return open_at(folder, absolute(folder, path, place), flags, mode);
}
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int file) {
    if (file >= 0 && file < FILES) ours[file] = 0;
    return (int)syscall(SYS_close, file);
}

/* `offset` below 0: where the file stands. */
static ssize_t put(int file, const void *data, size_t length, off_t offset) {
    long (*const system_call)(long, ...) = syscall;
    if (!is_ours(file)) {
        ssize_t done = offset < 0 ? system_call(SYS_write, file, data, length)
                                  : system_call(SYS_pwrite64, file, data, length, offset);
        if (file == 1 && done > 0) {
            pthread_mutex_lock(&one);
            tell(data, (size_t)done, "a %zd\n", done);
            pthread_mutex_unlock(&one);
        }
        return done;
    }
    pthread_mutex_lock(&one);
    int now = fate(WRITE);
    ssize_t done = -1;
    if (now >= 0) {
        off_t at = offset;
        if (offset < 0) {
            struct stat s;
            int appends = (fcntl(file, F_GETFL) & O_APPEND) && !syscall(SYS_fstat, file, &s);
            at = appends ? s.st_size : lseek(file, 0, SEEK_CUR);
        }
        /* None at all would be no short write. */
        size_t part = now == 1 ? (length + 1) / 2 : length;
        done = offset < 0 ? system_call(SYS_write, file, data, part) : system_call(SYS_pwrite64, file, data, part, offset);
        if (now == 1 && how == TEAR) kill(getpid(), SIGKILL);
        if (done > 0) tell(data, (size_t)done, "w %lu %lld %zd\n", inode(file), (long long)at, done);
    }
    pthread_mutex_unlock(&one);
    return done;
}

ssize_t write(int file, const void *data, size_t length) { return put(file, data, length, -1); }
ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return put(file, data, length, offset); }
ssize_t pwrite64(int file, const void *data, size_t length, off_t offset) { return put(file, data, length, offset); }

ssize_t writev(int file, const struct iovec *parts, int n) {
    if (!is_ours(file) && file != 1) return syscall(SYS_writev, file, parts, n);
    /* The first part that is not empty: a short write, which is allowed. */
    for (int i = 0; i < n; i++)
        if (parts[i].iov_len) return put(file, parts[i].iov_base, parts[i].iov_len, -1);
    return 0;
}

static ssize_t get(int file, void *data, size_t length, off_t offset) {
    int now = 0;
    if (is_ours(file)) {
        pthread_mutex_lock(&one);
        now = fate(READ);
        pthread_mutex_unlock(&one);
    }
    if (now < 0) return -1;
    if (now == 1) length = (length + 1) / 2;
    return offset < 0 ? syscall(SYS_read, file, data, length) : syscall(SYS_pread64, file, data, length, offset);
}

ssize_t read(int file, void *data, size_t length) { return get(file, data, length, -1); }
ssize_t pread(int file, void *data, size_t length, off_t offset) { return get(file, data, length, offset); }
ssize_t pread64(int file, void *data, size_t length, off_t offset) { return get(file, data, length, offset); }

static int on_file(int file, long number, long long length) {
    if (!is_ours(file)) return (int)(number == SYS_ftruncate ? syscall(number, file, length) : syscall(number, file));
    pthread_mutex_lock(&one);
    int done = -1;
    if (fate(CHANGE) == 0) {
        done = (int)(number == SYS_ftruncate ? syscall(number, file, length) : syscall(number, file));
        if (!done && number == SYS_ftruncate) tell(NULL, 0, "t %lu %lld\n", inode(file), length);
        if (!done && number != SYS_ftruncate) tell(NULL, 0, "s %lu\n", inode(file));
    }
    pthread_mutex_unlock(&one);
    return done;
}

int fsync(int file) { return on_file(file, SYS_fsync, 0); }
int fdatasync(int file) { return on_file(file, SYS_fdatasync, 0); }
int ftruncate(int file, off_t length) { return on_file(file, SYS_ftruncate, length); }
int ftruncate64(int file, off_t length) { return on_file(file, SYS_ftruncate, length); }

int fallocate(int file, int mode, off_t offset, off_t length) {
    /* Refused, so that all that is written is written by `write`. */
    if (is_ours(file)) return errno = EOPNOTSUPP, -1;
    return (int)syscall(SYS_fallocate, file, mode, offset, length);
}
int fallocate64(int file, int mode, off_t offset, off_t length) { return fallocate(file, mode, offset, length); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (!is_below(from) && !is_below(to)) return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    pthread_mutex_lock(&one);
    int done = -1;
    if (fate(CHANGE) == 0) {
        done = (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
        if (!done) tell(NULL, 0, "r %s\t%s\n", from, to);
    }
    pthread_mutex_unlock(&one);
    return done;
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}

int unlinkat(int folder, const char *name, int flags) {
    char place[2 * LONG];
    const char *path = absolute(folder, name, place);
    if (!is_below(path)) return (int)syscall(SYS_unlinkat, folder, path, flags);
    pthread_mutex_lock(&one);
    int done = -1;
    if (fate(CHANGE) == 0) {
        done = (int)syscall(SYS_unlinkat, folder, path, flags);
        if (!done) tell(NULL, 0, "u %s\n", path);
    }
    pthread_mutex_unlock(&one);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    if (!is_below(path)) return (int)syscall(SYS_mkdirat, folder, path, mode);
    pthread_mutex_lock(&one);
    int done = -1;
    if (fate(CHANGE) == 0) {
        done = (int)syscall(SYS_mkdirat, folder, path, mode);
        struct stat s;
        if (!done && !syscall(SYS_newfstatat, AT_FDCWD, path, &s, 0)) tell(NULL, 0, "m %lu %s\n", (unsigned long)s.st_ino, path);
    }
    pthread_mutex_unlock(&one);
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
