/* What sockets reach without a library: ping-pong, stream and start-up between processes over loopback.
 *
 * Usage: plain yield|block OPS BYTES REPETITIONS TIME_US      ops: pingpong, stream
 *        plain startup RANKS                                  all pairs connected, and a barrier
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int yields;

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void move(int fd, char *bytes, size_t length, int out) {
    for (size_t done = 0; done < length;) {
        ssize_t moved = out ? send(fd, bytes + done, length - done, MSG_NOSIGNAL) : recv(fd, bytes + done, length - done, 0);
        if (moved > 0) done += moved;
        else if (moved < 0 && (errno == EAGAIN || errno == EINTR)) sched_yield();
        else fail("moving bytes");
    }
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double turns(int fd, int first, int is_stream, long iterations, char *bytes, size_t length) {
    double begun = now_us();
    char word = 0;
    for (long i = 0; i < iterations; i++) {
        if (is_stream) move(fd, bytes, length, first);
        else move(fd, bytes, length, first), move(fd, bytes, length, !first);
    }
    if (is_stream) move(fd, &word, 1, !first);
    return now_us() - begun;
}

static void both(int fd, int first, const char *op, size_t length, int repetitions, double time_us) {
    int is_stream = !strcmp(op, "stream");
    char *bytes = malloc(length);
    memset(bytes, 1, length);
    turns(fd, first, is_stream, 2, bytes, length);
    long iterations = (long)(time_us / (turns(fd, first, is_stream, 3, bytes, length) / 3));
    if (iterations < 1) iterations = 1;
    if (iterations > 20000) iterations = 20000;
    move(fd, (char *)&iterations, sizeof iterations, first);
    double *samples = malloc(repetitions * sizeof(double));
    for (int i = 0; i < repetitions; i++) {
        double took = turns(fd, first, is_stream, iterations, bytes, length) / iterations;
        samples[i] = is_stream ? took : took / 2;
    }
    qsort(samples, repetitions, sizeof(double), ascending);
    if (first) {
        printf("%s,2,%zu,%.3f,%.3f\n", op, length, samples[repetitions / 2], samples[0]);
        fflush(stdout);
    }
    free(bytes), free(samples);
}

static int listener(struct sockaddr_in *address) {
    socklen_t length = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)address, length) || listen(fd, 4096)) fail("listening");
    getsockname(fd, (struct sockaddr *)address, &length);
    return fd;
}

static int dial(const struct sockaddr_in *address) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address)) fail("connecting");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static int take(int fd) {
    int one = 1, taken = accept(fd, NULL, NULL);
    if (taken < 0) fail("accepting");
    setsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return taken;
}

/* A rank: tells the registry where it listens, learns where all do, connects to those below it. */
static void startup_rank(int rank, int ranks, const char *registry_port) {
    struct sockaddr_in own, registry = {.sin_family = AF_INET, .sin_port = htons(atoi(registry_port))};
    registry.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = listener(&own), control = dial(&registry), *peers = calloc(ranks, sizeof(int));
    struct sockaddr_in *all = calloc(ranks, sizeof own);
    move(control, (char *)&rank, sizeof rank, 1);
    move(control, (char *)&own, sizeof own, 1);
    move(control, (char *)all, ranks * sizeof own, 0);
    for (int peer = 0; peer < rank; peer++) peers[peer] = dial(&all[peer]), move(peers[peer], (char *)&rank, sizeof rank, 1);
    for (int left = ranks - rank - 1; left > 0; left--) {
        int fd = take(listening), who;
        move(fd, (char *)&who, sizeof who, 0);
        peers[who] = fd;
    }
    char word = 0;
    for (int distance = 1; distance < ranks; distance *= 2) {
        move(peers[(rank + distance) % ranks], &word, 1, 1);
        move(peers[(rank + ranks - distance) % ranks], &word, 1, 0);
    }
    move(control, &word, 1, 1);
}

static void startup(const char *program, int ranks) {
    double begun = now_us();
    struct sockaddr_in own;
    int listening = listener(&own);
    char port[16], number[16], total[16];
    snprintf(port, sizeof port, "%d", ntohs(own.sin_port));
    snprintf(total, sizeof total, "%d", ranks);
    for (int rank = 0; rank < ranks; rank++) {
        snprintf(number, sizeof number, "%d", rank);
        if (fork() == 0) {
            execl(program, program, "rank", number, total, port, NULL);
            fail("starting a rank");
        }
    }
    int *controls = calloc(ranks, sizeof(int));
    struct sockaddr_in *all = calloc(ranks, sizeof own);
    for (int i = 0; i < ranks; i++) {
        int fd = take(listening), rank;
        move(fd, (char *)&rank, sizeof rank, 0);
        move(fd, (char *)&all[rank], sizeof own, 0);
        controls[rank] = fd;
    }
    char word;
    for (int i = 0; i < ranks; i++) move(controls[i], (char *)all, ranks * sizeof own, 1);
    for (int i = 0; i < ranks; i++) move(controls[i], &word, 1, 0);
    double took = now_us() - begun;
    while (wait(NULL) > 0);
    printf("startup,%d,0,%.1f,%.1f\n", ranks, took, took);
}

int main(int argc, char **argv) {
    if (argc == 5 && !strcmp(argv[1], "rank")) return startup_rank(atoi(argv[2]), atoi(argv[3]), argv[4]), 0;
    if (argc == 3 && !strcmp(argv[1], "startup")) return startup("/proc/self/exe", atoi(argv[2])), 0;
    if (argc != 6) {
        fprintf(stderr, "usage: plain yield|block OPS BYTES REPETITIONS TIME_US | plain startup RANKS\n");
        return 2;
    }
    yields = !strcmp(argv[1], "yield");
    struct sockaddr_in address;
    int listening = listener(&address), first = fork() != 0;
    int fd = first ? take(listening) : dial(&address);
    if (yields) fcntl(fd, F_SETFL, O_NONBLOCK);
    for (char *op = strtok(argv[2], ","), *next; op; op = next) {
        next = strtok(NULL, ",");
        for (char *at = argv[3]; *at;) {
            size_t bytes = strtoull(at, &at, 10);
            if (*at == ',') at++;
            both(fd, first, op, bytes, atoi(argv[4]), atof(argv[5]));
        }
    }
    if (first) wait(NULL);
    return 0;
}
