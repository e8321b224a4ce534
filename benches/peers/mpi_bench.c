/* What `fmi perf` measures, with MPI: same operations, same method, same columns.
 *
 * Each length is measured in repetitions; one repetition is a barrier, then as many operations as fit
 * the time, and counts as the mean of the slowest rank. Usage: mpi_bench OPS BYTES REPETITIONS TIME_US
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int rank, ranks;

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double turns(const char *op, long iterations, float *send, float *receive, int count) {
    double begun = now_us();
    for (long i = 0; i < iterations; i++) {
        if (!strcmp(op, "pingpong")) {
            if (rank == 0) {
                MPI_Send(send, count, MPI_FLOAT, 1, 1, MPI_COMM_WORLD);
                MPI_Recv(receive, count, MPI_FLOAT, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else if (rank == 1) {
                MPI_Recv(receive, count, MPI_FLOAT, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(send, count, MPI_FLOAT, 0, 1, MPI_COMM_WORLD);
            }
        } else if (!strcmp(op, "stream")) {
            if (rank == 0) MPI_Send(send, count, MPI_FLOAT, 1, 1, MPI_COMM_WORLD);
            else if (rank == 1) MPI_Recv(receive, count, MPI_FLOAT, 0, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else if (!strcmp(op, "barrier")) MPI_Barrier(MPI_COMM_WORLD);
        else if (!strcmp(op, "broadcast")) MPI_Bcast(receive, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
        else if (!strcmp(op, "reduce")) MPI_Reduce(send, receive, count, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
        else if (!strcmp(op, "allreduce")) MPI_Allreduce(send, receive, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        else if (!strcmp(op, "gather"))
            MPI_Gather(send, count, MPI_FLOAT, receive, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
        else if (!strcmp(op, "scatter"))
            MPI_Scatter(send, count, MPI_FLOAT, receive, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
        else if (!strcmp(op, "allgather"))
            MPI_Allgather(send, count, MPI_FLOAT, receive, count, MPI_FLOAT, MPI_COMM_WORLD);
        else if (!strcmp(op, "alltoall"))
            MPI_Alltoall(send, count, MPI_FLOAT, receive, count, MPI_FLOAT, MPI_COMM_WORLD);
        else if (!strcmp(op, "reduce_scatter"))
            MPI_Reduce_scatter_block(send, receive, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        else if (!strcmp(op, "scan")) MPI_Scan(send, receive, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        else if (!strcmp(op, "exscan")) MPI_Exscan(send, receive, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    }
    if (!strcmp(op, "stream")) {
        char word = 0;
        if (rank == 0) MPI_Recv(&word, 1, MPI_CHAR, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else if (rank == 1) MPI_Send(&word, 1, MPI_CHAR, 0, 2, MPI_COMM_WORLD);
    }
    return now_us() - begun;
}

static void measure(const char *op, size_t bytes, int repetitions, double time_us) {
    int count = (int)((bytes + sizeof(float) - 1) / sizeof(float));
    size_t sends = 1, receives = 1;
    if (!strcmp(op, "gather") || !strcmp(op, "allgather")) receives = ranks;
    if (!strcmp(op, "scatter") || !strcmp(op, "reduce_scatter")) sends = ranks;
    if (!strcmp(op, "alltoall")) sends = receives = ranks;
    float *send = malloc(sends * count * sizeof(float) + 1), *receive = malloc(receives * count * sizeof(float) + 1);
    for (size_t i = 0; i < sends * count; i++) send[i] = 1;
    for (size_t i = 0; i < receives * count; i++) receive[i] = 0;
    turns(op, 2, send, receive, count);
    double trial = turns(op, 3, send, receive, count) / 3;
    long iterations = trial > 0 ? (long)(time_us / trial) : 1;
    MPI_Bcast(&iterations, 1, MPI_LONG, 0, MPI_COMM_WORLD);
    if (iterations < 1) iterations = 1;
    if (iterations > 20000) iterations = 20000;
    double *samples = malloc(repetitions * sizeof(double));
    for (int i = 0; i < repetitions; i++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double mean = turns(op, iterations, send, receive, count) / iterations, slowest;
        MPI_Allreduce(&mean, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        samples[i] = strcmp(op, "pingpong") ? slowest : slowest / 2;
    }
    qsort(samples, repetitions, sizeof(double), ascending);
    if (rank == 0) {
        printf("%s,%d,%zu,%.3f,%.3f\n", op, ranks, bytes, samples[repetitions / 2], samples[0]);
        fflush(stdout);
    }
    free(send), free(receive), free(samples);
}

static double private_kib(void) {
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    double total = 0, value;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Private_Clean: %lf", &value) == 1 || sscanf(line, "Private_Dirty: %lf", &value) == 1)
            total += value;
    if (file) fclose(file);
    return total;
}

static void startup(void) {
    MPI_Barrier(MPI_COMM_WORLD);
    const char *text = getenv("FMI_PERF_START");
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    double took = text ? time.tv_sec * 1e6 + time.tv_nsec / 1e3 - atof(text) / 1e3 : 0, slowest;
    double memory = private_kib(), most;
    MPI_Allreduce(&took, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    MPI_Allreduce(&memory, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    if (rank == 0) {
        printf("startup,%d,0,%.1f,%.1f\nmemory_kib,%d,0,%.1f,%.1f\n", ranks, slowest, slowest, ranks, most, most);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    if (argc != 5) {
        fprintf(stderr, "usage: mpi_bench OPS BYTES REPETITIONS TIME_US\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (char *op = strtok(argv[1], ","), *next; op; op = next) {
        next = strtok(NULL, ",");
        if (!strcmp(op, "startup")) {
            startup();
            continue;
        }
        for (char *at = argv[2]; *at;) {
            size_t bytes = strtoull(at, &at, 10);
            if (*at == ',') at++;
            if (!strcmp(op, "barrier")) bytes = 0, at = "";
            measure(op, bytes, atoi(argv[3]), atof(argv[4]));
        }
    }
    MPI_Finalize();
    return 0;
}
