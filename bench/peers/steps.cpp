// What steps of several tokens cost an engine: what a draft's verification costs there.
//
//     llama-steps MODEL [--depth 512] [--rounds 15] [--threads 2]
//
// After a prompt of random ids, read in chunks of 512, steps of 1 to 8 random tokens take turns, logits of each, all of
// them kept. Prints a JSON object a line, as `steps` of `python -m bench.draft_speed` does for the same file, packed.
// Weights are read into memory. ik_llama.cpp repacks them; llama.cpp does not, which is slower on some machines, and where
// a kernel keeps AMX from programs it would crash. Built by bench/peers/build_llama.py.
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

static const int MOST = 8;

static int fail(const std::string & what) {
    std::fprintf(stderr, "llama-steps: %s\n", what.c_str());
    return 1;
}

static void log_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::fputs(text, stderr);
    }
}

// Reads `num` random tokens at `start`; seconds, or less than 0 if the engine refuses.
static double decode(llama_context * context, llama_batch & batch, std::mt19937 & random, int start, int num, bool all) {
    batch.n_tokens = num;
    for (int i = 0; i < num; i++) {
        batch.token[i] = random() % 50000;
        batch.pos[i] = start + i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = all || i == num - 1;
    }
    const auto began = std::chrono::steady_clock::now();
    if (llama_decode(context, batch)) {
        return -1;
    }
    llama_synchronize(context);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

int main(int argc, char ** argv) {
    if (argc < 2 || argc % 2) {
        return fail("expected MODEL [--depth N] [--rounds N] [--threads N]");
    }
    int depth = 512, rounds = 15, threads = 2;
    for (int i = 2; i < argc; i += 2) {
        const std::string name = argv[i];
        int * value = name == "--depth" ? &depth : name == "--rounds" ? &rounds : name == "--threads" ? &threads : nullptr;
        if (!value || (*value = std::atoi(argv[i + 1])) < 1) {
            return fail(name + " " + argv[i + 1] + ": no such option, or a number below 1");
        }
    }
    llama_log_set(log_errors, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
#ifdef IK_LLAMA
    model_params.use_mmap = false;
    model_params.repack_tensors = true;
#else
    model_params.load_mode = LLAMA_LOAD_MODE_NONE;
    model_params.use_extra_bufts = false;
#endif
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return fail("cannot load " + std::string(argv[1]));
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = depth + (rounds + 4) * MOST * (MOST + 1) / 2;
    params.n_batch = params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return fail("no context of " + std::to_string(params.n_ctx) + " positions");
    }
    llama_batch batch = llama_batch_init(512, 0, 1);
    std::mt19937 random(5);
    int done = 0;
    for (; done < depth; done += batch.n_tokens) {
        if (decode(context, batch, random, done, std::min(512, depth - done), false) < 0) {
            return fail("llama_decode refused the prompt");
        }
    }
    std::vector<double> found[MOST + 1];
    std::vector<int> sizes(MOST);
    std::iota(sizes.begin(), sizes.end(), 1);
    for (int turn = -2; turn < rounds; turn++) {
        // else a disturbance each second meets the same ones
        std::shuffle(sizes.begin(), sizes.end(), random);
        for (const int num : sizes) {
            const double seconds = decode(context, batch, random, done, num, true);
            if (seconds < 0) {
                return fail("llama_decode refused " + std::to_string(num) + " tokens at " + std::to_string(done));
            }
            done += num;
            if (turn >= 0) {
                found[num].push_back(1e3 * seconds);
            }
        }
    }
    double one = 0;
    for (int num = 1; num <= MOST; num++) {
        std::vector<double> & ms = found[num];
        std::sort(ms.begin(), ms.end());
        const double median = ms[ms.size() / 2];
        one = num == 1 ? median : one;
        std::printf("{\"part\": \"steps\", \"tokens\": %d, \"ms\": %.2f, \"least_ms\": %.2f, \"ratio\": %.3f}\n", num, median, ms[0], median / one);
    }
    llama_batch_free(batch);
    llama_free(context);
#ifdef IK_LLAMA
    llama_free_model(model);
#else
    llama_model_free(model);
#endif
    return 0;
}
