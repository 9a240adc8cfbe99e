// compile DLLS FILE...: compiles HLSL as wgpu has it compiled, by FXC (d3dcompiler_47.dll) what shader model 5.1 knows, by DXC (dxcompiler.dll) all of it.
// The first line of a file is `// PROFILE ENTRY`. Prints a line a file: milliseconds of each compiler; exits with 1 if one refused a file.

#include <windows.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

// Of the two interfaces only what is called here: methods by their places in the tables of dxcapi.h and d3dcommon.h.
template <typename R, typename... A> R call(void *object, int method, A... args) {
    auto table = *static_cast<void ***>(object);
    return reinterpret_cast<R(WINAPI *)(void *, A...)>(table[method])(object, args...);
}

const char *text_of(void *blob) { return blob ? call<const char *>(blob, 3) : "no message"; }

using D3DCompile = HRESULT(WINAPI *)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *, UINT, UINT, void **, void **);
using DxcCreateInstance = HRESULT(WINAPI *)(const GUID &, const GUID &, void **);

const GUID COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
const GUID COMPILER3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
const GUID RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
const UINT ENABLE_STRICTNESS = 1 << 11;

template <typename F> F load(const std::string &dll, const char *name) {
    auto module = LoadLibraryA(dll.c_str());
    auto found = module ? GetProcAddress(module, name) : nullptr;
    if (!found) {
        std::printf("%s: no %s\n", dll.c_str(), name);
        std::exit(2);
    }
    return reinterpret_cast<F>(found);
}

std::string message;

bool by_fxc(D3DCompile compile, const std::string &text, const char *profile, const char *entry) {
    void *code = nullptr, *errors = nullptr;
    auto result = compile(text.data(), text.size(), "kernel", nullptr, nullptr, entry, profile, ENABLE_STRICTNESS, 0, &code, &errors);
    message = SUCCEEDED(result) ? "" : text_of(errors);
    return SUCCEEDED(result);
}

bool by_dxc(void *compiler, const std::string &text, const std::string &profile, const std::string &entry) {
    const std::wstring model(profile.begin(), profile.end()), name(entry.begin(), entry.end());
    const wchar_t *args[] = {L"-E", name.c_str(), L"-T", model.c_str(), L"-HV", L"2018", L"-no-warnings", L"-Ges", L"-Vd", L"-enable-16bit-types"};
    const UINT count = profile == "cs_6_2" ? 10 : 9;
    struct {
        const void *data;
        SIZE_T size;
        UINT encoding;
    } source = {text.data(), text.size(), 0};
    void *result = nullptr, *errors = nullptr;
    HRESULT status = E_FAIL;
    if (call<HRESULT>(compiler, 3, &source, args, count, static_cast<void *>(nullptr), &RESULT, &result) < 0) {
        message = "no result";
        return false;
    }
    call<HRESULT>(result, 3, &status);
    call<HRESULT>(result, 5, &errors);
    message = SUCCEEDED(status) ? "" : text_of(errors);
    return SUCCEEDED(status);
}

int main(int count, char **args) {
    const std::string folder = args[1];
    auto fxc = load<D3DCompile>(folder + "\\d3dcompiler_47.dll", "D3DCompile");
    void *dxc = nullptr;
    if (load<DxcCreateInstance>(folder + "\\dxcompiler.dll", "DxcCreateInstance")(COMPILER, COMPILER3, &dxc) < 0) {
        std::printf("dxcompiler.dll has no IDxcCompiler3\n");
        return 2;
    }
    int refused = 0;
    std::printf("%9s %9s\n", "FXC, ms", "DXC, ms");
    for (int i = 2; i < count; i++) {
        std::stringstream text;
        text << std::ifstream(args[i]).rdbuf();
        std::string slashes, profile, entry;
        text >> slashes >> profile >> entry;
        std::string messages;
        auto timed = [&](auto compile) {
            auto start = GetTickCount();
            if (!compile()) {
                refused++;
                messages += message.substr(0, 2000);
                return std::string("refused");
            }
            return std::to_string(GetTickCount() - start);
        };
        std::string old = "-";
        if (profile == "cs_5_1") {
            old = timed([&] { return by_fxc(fxc, text.str(), profile.c_str(), entry.c_str()); });
            profile = "cs_6_0";
        }
        auto now = timed([&] { return by_dxc(dxc, text.str(), profile, entry); });
        std::printf("%9s %9s  %s\n%s", old.c_str(), now.c_str(), args[i], messages.c_str());
        std::fflush(stdout);
    }
    std::printf("%d files, %d refusals\n", count - 2, refused);
    return refused > 0;
}
