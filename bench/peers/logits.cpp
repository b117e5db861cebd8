// float32 logits of every position of a list of token ids, as llama.cpp computes them.
//
//     llama-logits MODEL IDS OUT [--threads N] [--chunk N] [--exact yes|no]
//
// IDS: int32, native order. OUT: float32 [positions, vocabulary], row by row. The prompt is read in chunks of --chunk
// positions (512). --exact yes: keys and values in f32 and no flash attention, which computes in f16; otherwise the defaults
// of llama.cpp. Built by bench/peers/build_llama.py.
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static int fail(const std::string & what) {
    std::fprintf(stderr, "llama-logits: %s\n", what.c_str());
    return 1;
}

static void log_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        std::fputs(text, stderr);
    }
}

static bool read_ids(const char * path, std::vector<int32_t> & ids) {
    std::FILE * file = std::fopen(path, "rb");
    if (!file) {
        return false;
    }
    int32_t id;
    while (std::fread(&id, sizeof id, 1, file) == 1) {
        ids.push_back(id);
    }
    std::fclose(file);
    return true;
}

int main(int argc, char ** argv) {
    if (argc < 4 || argc % 2) {
        return fail("expected MODEL IDS OUT [--threads N] [--chunk N] [--exact yes|no]");
    }
    int threads = 1, chunk = 512;
    bool exact = false;
    for (int i = 4; i < argc; i += 2) {
        const std::string name = argv[i], value = argv[i + 1];
        if (name == "--threads") {
            threads = std::atoi(value.c_str());
        } else if (name == "--chunk") {
            chunk = std::atoi(value.c_str());
        } else if (name == "--exact" && (value == "yes" || value == "no")) {
            exact = value == "yes";
        } else {
            return fail(name + " " + value + ": no such option");
        }
    }
    std::vector<int32_t> ids;
    if (!read_ids(argv[2], ids) || ids.empty() || threads < 1 || chunk < 1) {
        return fail("no ids in " + std::string(argv[2]) + ", or a number below 1");
    }
    llama_log_set(log_errors, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.use_extra_bufts = false;  // where a kernel keeps AMX from programs, it would crash
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return fail("cannot load " + std::string(argv[1]));
    }
    const int V = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int32_t id : ids) {
        if (id < 0 || id >= V) {
            return fail("id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(V));
        }
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = ids.size() + 1;
    params.n_batch = params.n_ubatch = chunk;
    params.n_threads = params.n_threads_batch = threads;
    if (exact) {
        params.type_k = params.type_v = GGML_TYPE_F32;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return fail("no context of " + std::to_string(params.n_ctx) + " positions");
    }
    const std::string part = std::string(argv[3]) + ".part";
    std::FILE * out = std::fopen(part.c_str(), "wb");
    if (!out) {
        return fail("cannot write " + part);
    }
    llama_batch batch = llama_batch_init(chunk, 0, 1);
    for (size_t start = 0; start < ids.size(); start += batch.n_tokens) {
        batch.n_tokens = std::min<size_t>(chunk, ids.size() - start);
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = ids[start + i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        if (llama_decode(context, batch)) {
            return fail("llama_decode failed at position " + std::to_string(start));
        }
        for (int i = 0; i < batch.n_tokens; i++) {
            if (std::fwrite(llama_get_logits_ith(context, i), sizeof(float), V, out) != (size_t) V) {
                return fail("cannot write " + part);
            }
        }
    }
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    if (std::fclose(out) || std::rename(part.c_str(), argv[3])) {
        return fail("cannot write " + std::string(argv[3]));
    }
    return 0;
}
