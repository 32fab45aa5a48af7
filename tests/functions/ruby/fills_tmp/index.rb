# Fills /tmp with bytes, then with empty files, and says how far it got.
def handler(req)
  size = files = 0
  why = files_why = nil
  block = "\7" * 65_536
  File.open("/tmp/big", "wb") do |file|
    loop { size += file.syswrite(block) }
  rescue SystemCallError => e
    why = e.class.name.split("::").last
  end
  File.unlink("/tmp/big")
  begin
    while files < 3_000_000
      File.open("/tmp/f#{files}", "w").close
      files += 1
    end
  rescue SystemCallError => e
    files_why = e.class.name.split("::").last
  end
  { body: { bytes: size, why: why, files: files, filesWhy: files_why } }
end
