# The first values of every source of randomness; then this instance ends, so that the next call gets a fresh one.
require "openssl"
require "securerandom"
require "tempfile"

KEPT = method(:rand) # a reference kept from before a snapshot
GENERATED = OpenSSL::Random.random_bytes(4) # OpenSSL's generator has been used before a snapshot

def handler(req)
  Thread.new do
    sleep 0.005
    exit!(0)
  end
  {
    body: {
      "rand" => "#{rand}#{rand}",
      "rand kept" => "#{KEPT.call}#{KEPT.call}",
      "Random.rand" => Random.rand(1 << 128).to_s,
      "Random.bytes" => Random.bytes(16).unpack1("H*"),
      "Random.new" => Random.new.bytes(16).unpack1("H*"),
      "Random.new_seed" => Random.new_seed.to_s,
      "Random.urandom" => Random.urandom(16).unpack1("H*"),
      "Random.seed" => Random.seed.to_s,
      "shuffle" => (1..40).to_a.shuffle.join(","),
      "SecureRandom.uuid" => SecureRandom.uuid,
      "SecureRandom.bytes" => SecureRandom.bytes(16).unpack1("H*"),
      "SecureRandom.hex" => SecureRandom.hex(16),
      "OpenSSL::Random" => OpenSSL::Random.random_bytes(16).unpack1("H*"),
      "OpenSSL::PKey" => OpenSSL::PKey::EC.generate("prime256v1").private_key.to_s,
      "Dir::Tmpname" => (0..3).map { Dir::Tmpname.create("t") { |path| path } }.join(","),
      "kernel" => File.read("/proc/sys/kernel/random/uuid")
    }
  }
end
