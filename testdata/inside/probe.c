/* What a process can see and do, one line each: "group|what|answer". Run inside a sandbox; tries nothing that could harm a
   machine on which it succeeds: calls get arguments that the kernel refuses once it has let the call itself pass. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void line(const char *group, const char *what, const char *answer) { printf("%s|%s|%s\n", group, what, answer); }

/* Whether a call was refused as such; any other failure comes from behind the wall. */
static void call(const char *what, long result) {
    int refused = result == -1 && (errno == EPERM || errno == EACCES || errno == ENOSYS);
    line("system calls", what, refused ? "refused" : "reached");
}

static void writing(const char *path) {
    int fd = open(path, O_WRONLY | O_CLOEXEC); /* writes nothing */
    if (fd >= 0) close(fd);
    line("writing", path, fd >= 0 ? "possible" : errno == ENOENT ? "absent" : "refused");
}

static void reading(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    long count = fd >= 0 ? read(fd, &byte, 1) : -1;
    if (fd >= 0) close(fd);
    line("reading", path, count > 0 ? "possible" : "nothing");
}

static void making_socket(const char *what, int family, int type) {
    int fd = socket(family, type, 0);
    if (fd >= 0) close(fd);
    line("sockets", what, fd >= 0 ? "possible" : "refused");
}

static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

/* Names in a directory that begin with one of `first`, or all; but for those of `hidden`. */
static void list(const char *group, const char *what, const char *path, const char *first, int own) {
    char *names[512], text[4096] = "";
    int count = 0;
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory)) && count < 512;) {
        if (entry->d_name[0] == '.' || (own && atoi(entry->d_name) == dirfd(directory))) continue;
        if (!strcmp(entry->d_name, "core") || (first && !strchr(first, entry->d_name[0]))) continue;
        names[count++] = strdup(entry->d_name);
    }
    if (directory) closedir(directory);
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) {
        if (i) strcat(text, " ");
        strcat(text, names[i]);
    }
    line(group, what, text);
}

static void status(void) {
    char text[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(text, sizeof text, file)) {
        char *value = strchr(text, '\t');
        if (!value || strncmp(text, "Cap", 3)) continue;
        value[-1] = 0;
        value[strcspn(value, "\n")] = 0;
        line("capabilities", text, value + 1);
    }
    if (file) fclose(file);
}

extern char **environ;

int main(void) {
    long bad = -1;
    status();
    call("mount", syscall(SYS_mount, "none", "/proc/self/none", "tmpfs", 0, 0));
    call("umount2", syscall(SYS_umount2, "/proc/self/none", 0));
    call("pivot_root", syscall(SYS_pivot_root, "/proc/self/none", "/proc/self/none"));
    call("unshare of mounts", syscall(SYS_unshare, 0x00020000));
    call("setns", syscall(SYS_setns, bad, 0));
    call("bpf", syscall(SYS_bpf, bad, 0, 0));
    call("perf_event_open", syscall(SYS_perf_event_open, 0, 0, bad, bad, bad));
    call("add_key", syscall(SYS_add_key, 0, 0, 0, 0, 0));
    call("keyctl", syscall(SYS_keyctl, 9999, 0, 0, 0, 0));
    call("request_key", syscall(SYS_request_key, 0, 0, 0, 0));
    call("init_module", syscall(SYS_init_module, 0, 0, 0));
    call("finit_module", syscall(SYS_finit_module, bad, 0, 0));
    call("delete_module", syscall(SYS_delete_module, 0, 0));
    call("kexec_load", syscall(SYS_kexec_load, 0, 99, 0, 0));
    call("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    call("swapon", syscall(SYS_swapon, "/proc/self/none", 0));
    call("settimeofday", syscall(SYS_settimeofday, 0, bad));
    call("sethostname", syscall(SYS_sethostname, 0, bad));
    call("acct", syscall(SYS_acct, "/proc/self/none"));
    call("quotactl", syscall(SYS_quotactl, bad, 0, 0, 0));
    call("syslog", syscall(SYS_syslog, 3, 0, bad));
    call("open_by_handle_at", syscall(SYS_open_by_handle_at, bad, 0, 0));
    call("userfaultfd", syscall(SYS_userfaultfd, bad));
    call("io_uring_setup", syscall(425, 0, 0));
    call("fsopen", syscall(430, 0, bad));
    call("open_tree", syscall(428, bad, "", bad));
    writing("/proc/sys/kernel/core_pattern");
    writing("/proc/sys/kernel/hostname");
    writing("/dev/mem");
    reading("/proc/kcore");
    reading("/proc/keys");
    reading("/proc/timer_list");
    reading("/dev/kmsg");
    list("directories", "/dev", "/dev", 0, 0);
    list("directories", "/sys/firmware", "/sys/firmware", 0, 0);
    list("processes", "numbers in /proc", "/proc", "123456789", 0);
    list("descriptors", "numbers", "/proc/self/fd", 0, 1);
    making_socket("unix", AF_UNIX, SOCK_STREAM);
    making_socket("IPv4", AF_INET, SOCK_STREAM);
    making_socket("packet", AF_PACKET, SOCK_RAW);
    making_socket("crypto (AF_ALG)", 38, SOCK_SEQPACKET);
    making_socket("virtual machine (AF_VSOCK)", 40, SOCK_STREAM);
    char names[4096] = "";
    for (char **variable = environ; *variable; variable++) {
        if (*names) strcat(names, " ");
        strncat(names, *variable, strcspn(*variable, "="));
    }
    line("environment", "names", names);
    return 0;
}
