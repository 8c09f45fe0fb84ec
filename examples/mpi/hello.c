// Each rank says where it is, and all add up their numbers: enough to show that they talk to each other.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  int size = 0;
  int sum = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  const char* node = getenv("SKYPILOT_NODE_RANK");
  printf("MPI rank %d of %d, on the job's node %s: the ranks add up to %d\n", rank, size,
         node != NULL ? node : "?", sum);
  MPI_Finalize();
  return 0;
}
